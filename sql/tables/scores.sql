-- scores: the ledger of every score ever given.
--
-- Grain:   one row per run, scorer and admission (run_id, scorer_id, hadm_id).
-- Columns: input_hash (what it was computed from: vector_hash of the admission's mean, or of all
--          its windows; featurestore replay finds them by it).
CREATE TABLE scores (
    scorer_id VARCHAR NOT NULL,
    hadm_id BIGINT NOT NULL,
    run_id INTEGER NOT NULL,
    probability DOUBLE NOT NULL CHECK (probability BETWEEN 0 AND 1),
    prediction_time TIMESTAMP NOT NULL,
    scored_at TIMESTAMP NOT NULL,
    input_hash UBIGINT NOT NULL
);
