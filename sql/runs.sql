-- runs: every job that changed this store.
--
-- Grain:   one row per run (run_id, counted from 1).
-- Columns: started_at and finished_at (local time), counts and versions (JSON).
CREATE TABLE runs (
    run_id INTEGER NOT NULL,
    command VARCHAR NOT NULL,
    started_at TIMESTAMP NOT NULL,
    finished_at TIMESTAMP NOT NULL,
    status VARCHAR NOT NULL,
    counts JSON NOT NULL,
    versions JSON NOT NULL
);
