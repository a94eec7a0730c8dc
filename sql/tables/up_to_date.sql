-- up_to_date: up to which run is what was computed complete?
--
-- Grain:   one row per kind and name (kind, name).
-- Without a row, everything of that name is computed from all admissions.
CREATE TABLE up_to_date (
    kind VARCHAR NOT NULL CHECK (kind IN ('vectors', 'means', 'scores')),
    name VARCHAR NOT NULL,
    run_id INTEGER NOT NULL,
    observed_until TIMESTAMP
);

COMMENT ON TABLE up_to_date IS
'Up to which run is what was computed complete?
One row per kind and name (kind, name).';
COMMENT ON COLUMN up_to_date.kind IS
'vectors: every ready note has one. means: of every admission. scores: every one that is due.';
COMMENT ON COLUMN up_to_date.name IS 'An encoder, a cutoff or a scorer.';
COMMENT ON COLUMN up_to_date.observed_until IS 'That of settings at the time.';
