-- changed_admissions: which admissions did each run change?
--
-- Grain:   one row per run and change (run_id, hadm_id, subject_id may repeat); never updated.
-- What is computed from notes and stays is brought up to date from these, without a pass over all.
CREATE TABLE changed_admissions (
    run_id INTEGER NOT NULL,
    hadm_id BIGINT,
    subject_id BIGINT
);

COMMENT ON TABLE changed_admissions IS
'Which admissions did each run change?
One row per run and change (run_id, hadm_id, subject_id may repeat); never updated.';
COMMENT ON COLUMN changed_admissions.hadm_id IS
'NULL where the run changed more than a tenth of all.';
COMMENT ON COLUMN changed_admissions.subject_id IS
'The patient, where the stay itself changed: the predictions of other stays may depend on it. NULL
where only its notes, vectors or covariates did.';
