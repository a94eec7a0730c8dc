-- The canonical columns of stays in intensive care, from MIMIC-IV (module icu).
--
-- Grain:   one row per stay in intensive care (stay_id).
SELECT
    i.stay_id AS icu_stay_id,
    i.hadm_id,
    i.subject_id,
    i.intime,
    i.outtime,
    i.first_careunit AS care_unit
FROM icustays i
