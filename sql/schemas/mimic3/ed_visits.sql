-- The canonical columns of visits to the emergency department, from MIMIC-III.
--
-- Grain:   one row per stay that began there (hadm_id).
-- Rule:    MIMIC-III has no visits that ended at home.
SELECT
    a.subject_id,
    a.hadm_id,
    a.edregtime AS intime,
    a.edouttime AS outtime
FROM admissions a
WHERE a.edregtime IS NOT NULL
