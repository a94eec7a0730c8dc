-- subgroups: which groups do admissions belong to, in which a scorer is evaluated separately?
--
-- Grain:   one row per admission, ordered by hadm_id; a column per grouping, its name as displayed.
-- Reads the registered table training_admissions (hadm_id).
SELECT
    CASE
        WHEN a.age < 18 THEN 'under 18'
        WHEN a.age < 45 THEN '18 to 44'
        WHEN a.age < 65 THEN '45 to 64'
        WHEN a.age < 75 THEN '65 to 74'
        WHEN a.age < 85 THEN '75 to 84'
        WHEN a.age >= 85 THEN '85 and over'
    END AS age,
    a.gender AS sex,
    ethnicity_group(a.ethnicity) AS ethnicity,
    a.insurance,
    a.admission_type AS "admission type"
FROM training_admissions AS t
LEFT JOIN admissions AS a ON t.hadm_id = a.hadm_id
ORDER BY t.hadm_id
