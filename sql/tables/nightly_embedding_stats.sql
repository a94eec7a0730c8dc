-- nightly_embedding_stats: what were the vectors of each night like? Tonight's are compared with the last ones.
--
-- Grain:   one row per nightly run, encoder and note category (run_id, encoder_id, category).
-- Columns: n_notes and n_windows embedded that night, embedding (the mean of the windows), spread
--          (root of their mean squared distance from it).
CREATE TABLE nightly_embedding_stats (
    run_id INTEGER NOT NULL,
    encoder_id VARCHAR NOT NULL,
    category VARCHAR NOT NULL,
    n_notes INTEGER NOT NULL,
    n_windows INTEGER NOT NULL,
    spread DOUBLE NOT NULL,
    embedding FLOAT[768] NOT NULL CHECK (isfinite(array_inner_product(embedding, embedding)))
);
