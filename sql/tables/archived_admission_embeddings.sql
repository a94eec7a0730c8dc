-- archived_admission_embeddings: former means that a recorded score depends on.
--
-- Grain:   one row per encoder, admission, cutoff and vector (encoder_id, hadm_id, cutoff,
--          vector_hash).
CREATE TABLE archived_admission_embeddings (
    encoder_id VARCHAR NOT NULL,
    hadm_id BIGINT NOT NULL,
    cutoff VARCHAR NOT NULL,
    vector_hash UBIGINT NOT NULL,
    embedding FLOAT[] NOT NULL CHECK (isfinite(list_inner_product(embedding, embedding)))
);

COMMENT ON TABLE archived_admission_embeddings IS
'Former means that a recorded score depends on.
One row per encoder, admission, cutoff and vector (encoder_id, hadm_id, cutoff, vector_hash).';
