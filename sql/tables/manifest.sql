-- manifest: checksums of the tables after the last commit; verify compares them.
--
-- Grain:   one row per table (table_name).
CREATE TABLE manifest (
    table_name VARCHAR NOT NULL,
    n_rows BIGINT NOT NULL,
    content_hash HUGEINT NOT NULL,
    run_id INTEGER NOT NULL,
    duckdb_version VARCHAR NOT NULL
);

COMMENT ON TABLE manifest IS
'Checksums of the tables after the last commit; verify compares them.
One row per table (table_name).';
COMMENT ON COLUMN manifest.content_hash IS
'Sum of the DuckDB hashes of the rows, independent of their order.';
COMMENT ON COLUMN manifest.run_id IS 'The run that committed.';
COMMENT ON COLUMN manifest.duckdb_version IS 'Version of DuckDB that computed the hashes.';
