-- runs: every job that changed this store.
--
-- Grain:   one row per run (run_id; 0 is init).
-- Columns: started_at and finished_at (local time), counts and versions (JSON), uid (the user's
--          number on the machine that it ran on), hash_before and hash_after (SHA-256 of what the
--          other tables held when it began and when it ended), chain (SHA-256 of this row and the
--          chain of the row before: a row that is changed or removed breaks it).
CREATE TABLE runs (
    run_id INTEGER NOT NULL,
    command VARCHAR NOT NULL,
    started_at TIMESTAMP NOT NULL,
    finished_at TIMESTAMP NOT NULL,
    status VARCHAR NOT NULL,
    counts JSON NOT NULL,
    versions JSON NOT NULL,
    uid INTEGER NOT NULL,
    hash_before VARCHAR NOT NULL,
    hash_after VARCHAR NOT NULL,
    chain VARCHAR NOT NULL
);
