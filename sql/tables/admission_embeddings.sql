-- admission_embeddings: the mean of the windows that were known at the prediction time.
--
-- Grain:   one row per encoder, admission and cutoff (24h, 48h, 72h, discharge).
-- Columns: n_notes and n_windows (how many the mean is taken over), windows_hash (which ones, and
--          which text: a mean is computed anew when it differs), vector_hash (hash(embedding)).
CREATE TABLE admission_embeddings (
    encoder_id VARCHAR NOT NULL,
    hadm_id BIGINT NOT NULL,
    cutoff VARCHAR NOT NULL,
    prediction_time TIMESTAMP NOT NULL,
    n_notes INTEGER NOT NULL,
    n_windows INTEGER NOT NULL,
    windows_hash UBIGINT NOT NULL,
    vector_hash UBIGINT NOT NULL,
    embedding FLOAT[768] NOT NULL CHECK (isfinite(array_inner_product(embedding, embedding)))
);
