-- covariate_sets: the SELECTs of numbers that a scorer uses beside the vector of an admission.
--
-- Grain:   one row per set (covariates_id: name and 8 hex digits of the hash of the SELECTs).
CREATE TABLE covariate_sets (
    covariates_id VARCHAR NOT NULL,
    name VARCHAR NOT NULL,
    queries VARCHAR[] NOT NULL,
    columns VARCHAR[] NOT NULL
);

COMMENT ON TABLE covariate_sets IS
'The SELECTs of numbers that a scorer uses beside the vector of an admission.
One row per set (covariates_id: name and 8 hex digits of the hash of the SELECTs).';
COMMENT ON COLUMN covariate_sets.queries IS
'The SELECTs, each keyed by hadm_id; $cutoff is that of the scorer.';
COMMENT ON COLUMN covariate_sets.columns IS 'The covariates, in the order of admission_covariates.';
