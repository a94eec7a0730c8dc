-- forgotten_admissions: which of the source's admissions are of patients whom the store forgot?
--
-- Grain:   one row per admission (hadm_id).
CREATE TABLE forgotten_admissions AS
SELECT DISTINCT TRY_CAST(a.hadm_id AS BIGINT) AS hadm_id
FROM all_admissions AS a
SEMI JOIN forgotten_patients AS f ON TRY_CAST(a.subject_id AS BIGINT) = f.subject_id;
