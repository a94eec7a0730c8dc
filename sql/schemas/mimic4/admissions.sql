-- The canonical columns of admissions, from MIMIC-IV.
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
    CASE
        WHEN a.admission_type IN ('ELECTIVE', 'SURGICAL SAME DAY ADMISSION') THEN 1
        ELSE 0
    END AS planned,
    a.discharge_location,
    p.dod,
    -- MIMIC-IV has no date of birth, but the age in an anchor year: this is the year of birth.
    CAST(p.anchor_year AS DECIMAL(4, 0)) - CAST(p.anchor_age AS DECIMAL(4, 0)) AS dob,
    p.gender,
    a.race AS ethnicity,
    a.insurance
FROM admissions a
LEFT JOIN patients p ON a.subject_id = p.subject_id
