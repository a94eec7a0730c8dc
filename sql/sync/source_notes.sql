-- source_notes: the notes of the source, without those of forgotten patients.
--
-- Grain:   one row per note of the source.
-- Rule:    a note on a forgotten patient's admission is excluded even if it names another patient.
CREATE VIEW source_notes AS
FROM all_notes AS n
ANTI JOIN forgotten_patients AS f ON n.subject_id = f.subject_id
ANTI JOIN forgotten_admissions AS a ON n.hadm_id = a.hadm_id;
