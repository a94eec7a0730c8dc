-- demographics($cutoff): who is the patient, and was the stay planned?
--
-- Grain:   one row per admission (hadm_id).
-- Columns: age (years), male, planned, emergency; NULL where the source does not say.
-- All of it is known at the admission, whatever the cutoff.
SELECT
    a.hadm_id,
    a.age,
    CASE upper(left(a.gender, 1)) WHEN 'M' THEN TRUE WHEN 'F' THEN FALSE END AS male,
    a.planned,
    upper(a.admission_type) LIKE '%EMER%' OR upper(a.admission_type) LIKE 'URGENT%' AS emergency
FROM admissions AS a
INNER JOIN prediction_times(cutoff := $cutoff) AS p ON a.hadm_id = p.hadm_id
