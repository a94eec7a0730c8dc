-- embeddings: the [CLS] vector of every window of every ready note.
--
-- Grain:   one row per encoder, note and window (encoder_id, note_id, window_no).
-- No primary key: every commit would rebuild its index (4.7 s per 100,000 vectors). Every commit
-- checks the keys for duplicates instead. Vectors are lists, so that encoders of several widths can
-- share the table; every commit checks the widths.
CREATE TABLE embeddings (
    encoder_id VARCHAR NOT NULL,
    hadm_id BIGINT NOT NULL,
    note_id VARCHAR NOT NULL,
    window_no INTEGER NOT NULL,
    n_tokens INTEGER NOT NULL,
    available_at TIMESTAMP NOT NULL,
    text_hash VARCHAR NOT NULL,
    vector_hash UBIGINT NOT NULL,
    -- Refuses NaN, infinity and missing elements.
    embedding FLOAT[] NOT NULL CHECK (isfinite(list_inner_product(embedding, embedding)))
);

COMMENT ON TABLE embeddings IS
'The [CLS] vector of every window of every ready note.
One row per encoder, note and window (encoder_id, note_id, window_no).';
COMMENT ON COLUMN embeddings.window_no IS 'Position of the window in the note, from 0.';
COMMENT ON COLUMN embeddings.n_tokens IS 'Tokens of the window, [CLS] and [SEP] included.';
COMMENT ON COLUMN embeddings.text_hash IS
'MD5 of the embedded text. The vector is stale where it differs from that of the note.';
COMMENT ON COLUMN embeddings.vector_hash IS
'hash(embedding) when it was written; verify compares it.';
COMMENT ON COLUMN embeddings.embedding IS 'As wide as the encoder''s dim.';
