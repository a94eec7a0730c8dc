-- admission_covariates: the covariates of every admission that is predicted for a scorer.
--
-- Grain:   one row per set, cutoff and admission (covariates_id, cutoff, hadm_id).
CREATE TABLE admission_covariates (
    covariates_id VARCHAR NOT NULL,
    cutoff VARCHAR NOT NULL,
    hadm_id BIGINT NOT NULL,
    prediction_time TIMESTAMP NOT NULL,
    design_hash UBIGINT NOT NULL,
    design DOUBLE[] NOT NULL CHECK (isfinite(list_inner_product(design, design)))
);

COMMENT ON TABLE admission_covariates IS
'The covariates of every admission that is predicted for a scorer.
One row per set, cutoff and admission (covariates_id, cutoff, hadm_id).';
COMMENT ON COLUMN admission_covariates.design_hash IS 'hash(design).';
COMMENT ON COLUMN admission_covariates.design IS
'Two numbers per covariate: its value, 0 where it is missing, and whether it is missing, 0 or 1.';
