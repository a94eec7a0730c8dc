-- scores: every score ever recorded.
--
-- Grain:   one row per run, scorer and admission (run_id, scorer_id, hadm_id).
CREATE TABLE scores (
    scorer_id VARCHAR NOT NULL,
    hadm_id BIGINT NOT NULL,
    run_id INTEGER NOT NULL,
    probability DOUBLE NOT NULL CHECK (probability BETWEEN 0 AND 1),
    prediction_time TIMESTAMP NOT NULL,
    scored_at TIMESTAMP NOT NULL,
    input_hash UBIGINT NOT NULL,
    subject_id BIGINT NOT NULL
);

COMMENT ON TABLE scores IS
'Every score ever recorded.
One row per run, scorer and admission (run_id, scorer_id, hadm_id).';
COMMENT ON COLUMN scores.input_hash IS
'What the score was computed from: the vector_hash of the mean, or of all windows.';
COMMENT ON COLUMN scores.subject_id IS
'The patient, by whom the score is found if the admission has left the source.';
