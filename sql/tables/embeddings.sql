-- embeddings: the [CLS] vector of every window of every ready note.
--
-- Grain:   one row per encoder, note and window (encoder_id, note_id, window_no from 0).
-- Columns: n_tokens (word pieces, [CLS] and [SEP] included), text_hash (md5 of the text that was
--          embedded: where it is not the note's any more, the vector is stale and does not count),
--          vector_hash (hash(embedding) as it was written: a byte that changed since shows).
-- No primary key: its index would be rebuilt by every commit (4.7 s per 100,000 vectors); every
-- commit counts the keys instead. The width is set by the store's first encoder.
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
    embedding FLOAT[768] NOT NULL CHECK (isfinite(array_inner_product(embedding, embedding)))
);
