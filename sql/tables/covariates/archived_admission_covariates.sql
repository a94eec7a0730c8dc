-- archived_admission_covariates: former covariates that a recorded score may depend on.
--
-- Grain:   one row per set, cutoff, admission and design (covariates_id, cutoff, hadm_id,
--          design_hash).
CREATE TABLE archived_admission_covariates (
    covariates_id VARCHAR NOT NULL,
    cutoff VARCHAR NOT NULL,
    hadm_id BIGINT NOT NULL,
    design_hash UBIGINT NOT NULL,
    design DOUBLE[] NOT NULL CHECK (isfinite(list_inner_product(design, design)))
);

COMMENT ON TABLE archived_admission_covariates IS
'Former covariates that a recorded score may depend on.
One row per set, cutoff, admission and design (covariates_id, cutoff, hadm_id, design_hash).';
