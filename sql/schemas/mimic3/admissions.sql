-- The canonical columns of admissions, from MIMIC-III.
--
-- Grain:   one row per admission (hadm_id).
SELECT
    a.hadm_id,
    a.subject_id,
    a.admittime,
    a.dischtime,
    a.deathtime,
    CAST(a.hospital_expire_flag AS VARCHAR) = '1' AS died_in_hospital,
    a.admission_type,
    a.admission_type = 'ELECTIVE' AS planned,
    a.discharge_location,
    p.dod,
    p.dob,
    p.gender,
    a.ethnicity,
    a.insurance
FROM admissions AS a
LEFT JOIN patients AS p ON a.subject_id = p.subject_id
