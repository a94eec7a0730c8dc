-- evaluations: when was which scorer evaluated on which patients?
--
-- Grain:   one row per evaluation (scorer_id, evaluated_at); never updated.
CREATE TABLE evaluations (
    scorer_id VARCHAR NOT NULL,
    evaluated_at TIMESTAMP NOT NULL,
    store VARCHAR,
    admissions INTEGER NOT NULL,
    patients INTEGER NOT NULL,
    positives INTEGER NOT NULL,
    patients_hash VARCHAR NOT NULL,
    metrics JSON NOT NULL
);

COMMENT ON TABLE evaluations IS
'When was which scorer evaluated on which patients?
One row per evaluation (scorer_id, evaluated_at); never updated.';
COMMENT ON COLUMN evaluations.store IS
'Another store, whose patients were predicted; NULL for the test patients of this one.';
COMMENT ON COLUMN evaluations.patients_hash IS 'SHA-256 of the numbers of the patients, sorted.';
COMMENT ON COLUMN evaluations.metrics IS 'The performance, as JSON.';
