-- The canonical columns of visits to the emergency department, from MIMIC-IV-ED.
--
-- Grain:   one row per visit (stay_id).
SELECT
    e.subject_id,
    e.hadm_id,
    e.intime,
    e.outtime
FROM edstays e
