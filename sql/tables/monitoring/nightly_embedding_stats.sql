-- nightly_embedding_stats: statistics of the vectors embedded each night, for the drift check.
--
-- Grain:   one row per nightly run, encoder and note category (run_id, encoder_id, category).
CREATE TABLE nightly_embedding_stats (
    run_id INTEGER NOT NULL,
    encoder_id VARCHAR NOT NULL,
    category VARCHAR NOT NULL,
    n_notes INTEGER NOT NULL,
    n_windows INTEGER NOT NULL,
    spread DOUBLE NOT NULL,
    embedding FLOAT[] NOT NULL CHECK (isfinite(list_inner_product(embedding, embedding)))
);

COMMENT ON TABLE nightly_embedding_stats IS
'Statistics of the vectors embedded each night, for the drift check.
One row per nightly run, encoder and note category (run_id, encoder_id, category).';
COMMENT ON COLUMN nightly_embedding_stats.n_notes IS 'Notes embedded that night.';
COMMENT ON COLUMN nightly_embedding_stats.n_windows IS 'Windows embedded that night.';
COMMENT ON COLUMN nightly_embedding_stats.embedding IS 'Mean of the windows.';
COMMENT ON COLUMN nightly_embedding_stats.spread IS
'Root mean squared distance of the windows from their mean.';
