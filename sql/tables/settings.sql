-- settings: the source of this store, and up to when it was observed.
--
-- Grain:   one row.
CREATE TABLE settings (
    source VARCHAR NOT NULL,
    schema_name VARCHAR NOT NULL,
    live BOOLEAN NOT NULL,
    observed_until TIMESTAMP,
    secret BLOB NOT NULL
);

COMMENT ON TABLE settings IS
'The source of this store, and up to when it was observed.
One row.';
COMMENT ON COLUMN settings.source IS 'Folder, database file or URL without its password.';
COMMENT ON COLUMN settings.schema_name IS 'A built-in schema or a folder with two SELECTs.';
COMMENT ON COLUMN settings.live IS 'A running hospital, not a research extract.';
COMMENT ON COLUMN settings.observed_until IS
'The end of the source if it says so, else the newest sync of a live hospital; NULL for an extract,
which counts as fully observed.';
COMMENT ON COLUMN settings.secret IS 'Random bytes that sign the staged shards of this store.';
