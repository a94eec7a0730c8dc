-- source_notes: the notes of the source, without those of forgotten patients.
--
-- Grain:   one row per note of the source.
-- Rule:    a note on a forgotten patient's admission is excluded even if it names another patient.
CREATE VIEW source_notes AS
FROM all_notes AS n
ANTI JOIN forgotten_patients AS f ON TRY_CAST(n.subject_id AS BIGINT) = f.subject_id
ANTI JOIN forgotten_admissions AS a ON TRY_CAST(n.hadm_id AS BIGINT) = a.hadm_id;
