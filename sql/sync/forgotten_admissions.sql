-- forgotten_admissions: which of the source's admissions are of patients whom the store forgot?
--
-- Grain:   one row per admission (hadm_id).
CREATE TABLE forgotten_admissions AS
SELECT DISTINCT a.hadm_id
FROM all_admissions AS a
SEMI JOIN forgotten_patients AS f ON a.subject_id = f.subject_id;
