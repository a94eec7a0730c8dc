-- source_admissions: the admissions of the source, without those of forgotten patients.
--
-- Grain:   one row per admission of the source.
CREATE VIEW source_admissions AS
FROM all_admissions AS a
ANTI JOIN forgotten_patients AS f ON a.subject_id = f.subject_id;
