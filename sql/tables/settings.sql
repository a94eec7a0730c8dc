-- settings: where does this store read from, and up to when has the hospital been observed?
--
-- Grain:   one row.
-- Columns: source (folder or URL, without its password), schema_name (mimic3, mimic4 or a folder),
--          live (a running hospital, not a research extract), observed_until (the newest sync of a
--          live hospital; NULL for an extract, which counts as fully observed), secret (random
--          bytes, by which the store knows shards of its own).
CREATE TABLE settings (
    source VARCHAR NOT NULL,
    schema_name VARCHAR NOT NULL,
    live BOOLEAN NOT NULL,
    observed_until TIMESTAMP,
    secret BLOB NOT NULL
);
