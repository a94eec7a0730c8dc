-- The canonical columns of admissions, from MIMIC-III.
--
-- Grain:   one row per admission (hadm_id).
SELECT
    a.hadm_id,
    a.subject_id,
    a.admittime,
    a.dischtime,
    a.deathtime,
    a.hospital_expire_flag AS died_in_hospital,
    a.admission_type,
    CASE WHEN a.admission_type = 'ELECTIVE' THEN 1 ELSE 0 END AS planned,
    a.discharge_location,
    p.dod,
    p.dob,
    p.gender,
    a.ethnicity,
    a.insurance
FROM admissions a
LEFT JOIN patients p ON a.subject_id = p.subject_id
