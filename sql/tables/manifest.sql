-- manifest: what did the last commit store? Compared by featurestore verify.
--
-- Grain:   one row per table (table_name).
-- Columns: n_rows, content_hash (the sum of DuckDB's hashes of the rows, so that no order shows; of
--          a vector table, with vector_hash in the vector's place), run_id (the commit's),
--          duckdb_version (whose hashes they are).
CREATE TABLE manifest (
    table_name VARCHAR NOT NULL,
    n_rows BIGINT NOT NULL,
    content_hash HUGEINT NOT NULL,
    run_id INTEGER NOT NULL,
    duckdb_version VARCHAR NOT NULL
);
