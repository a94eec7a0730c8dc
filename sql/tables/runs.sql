-- runs: every job that changed this store.
--
-- Grain:   one row per run (run_id; 0 is init).
CREATE TABLE runs (
    run_id INTEGER NOT NULL,
    command VARCHAR NOT NULL,
    started_at TIMESTAMP NOT NULL,
    finished_at TIMESTAMP NOT NULL,
    status VARCHAR NOT NULL,
    counts JSON NOT NULL,
    versions JSON NOT NULL,
    uid INTEGER NOT NULL,
    hash_after VARCHAR NOT NULL,
    chain VARCHAR NOT NULL,
    contents JSON,
    changed_since INTEGER
);

COMMENT ON TABLE runs IS
'Every job that changed this store.
One row per run (run_id; 0 is init).';
COMMENT ON COLUMN runs.started_at IS 'Local time.';
COMMENT ON COLUMN runs.finished_at IS 'Local time.';
COMMENT ON COLUMN runs.counts IS 'What the job did, as JSON.';
COMMENT ON COLUMN runs.versions IS
'Versions of the program and of DuckDB, and how the file was copied, as JSON.';
COMMENT ON COLUMN runs.uid IS 'User id on the machine that ran the job.';
COMMENT ON COLUMN runs.hash_after IS 'SHA-256 of contents after the run.';
COMMENT ON COLUMN runs.chain IS
'SHA-256 of this row, without contents, and of the chain before it; any edited or deleted row breaks
it.';
-- Two of them could reveal what a deleted row held.
COMMENT ON COLUMN runs.contents IS
'Number of rows, hash of the rows and hash of the columns of each other table, as JSON; NULL but for
the last run.';
COMMENT ON COLUMN runs.changed_since IS
'The run after which another program changed this store, until somebody accepts that; NULL if none
did.';
