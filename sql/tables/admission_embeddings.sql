-- admission_embeddings: the mean of the windows known at the prediction time.
--
-- Grain:   one row per encoder, admission and cutoff (encoder_id, hadm_id, cutoff).
CREATE TABLE admission_embeddings (
    encoder_id VARCHAR NOT NULL,
    hadm_id BIGINT NOT NULL,
    cutoff VARCHAR NOT NULL,
    prediction_time TIMESTAMP NOT NULL,
    n_notes INTEGER NOT NULL,
    n_windows INTEGER NOT NULL,
    windows_hash UBIGINT NOT NULL,
    vector_hash UBIGINT NOT NULL,
    embedding FLOAT[] NOT NULL CHECK (isfinite(list_inner_product(embedding, embedding)))
);

COMMENT ON TABLE admission_embeddings IS
'The mean of the windows known at the prediction time.
One row per encoder, admission and cutoff (encoder_id, hadm_id, cutoff).';
COMMENT ON COLUMN admission_embeddings.cutoff IS
'One of kept_cutoffs, such as 72h or discharge+48h.';
COMMENT ON COLUMN admission_embeddings.n_notes IS
'Notes that the mean is taken over; repeats of a text are among them, and count once in the mean.';
COMMENT ON COLUMN admission_embeddings.n_windows IS 'Windows of these notes.';
COMMENT ON COLUMN admission_embeddings.windows_hash IS
'Which windows and texts; the mean is recomputed when it differs.';
COMMENT ON COLUMN admission_embeddings.vector_hash IS 'hash(embedding).';
