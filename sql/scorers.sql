-- scorers: the fitted logistic regressions.
--
-- Grain:   one row per fit (scorer_id: its name and version, such as readmit-72h-v1).
-- Columns: coef and intercept (log odds; standardisation is folded in, so that the score is one
--          inner product), metrics (JSON), training_hash (SHA-256 of the rows fitted on).
CREATE TABLE scorers (
    scorer_id VARCHAR NOT NULL,
    name VARCHAR NOT NULL,
    version INTEGER NOT NULL,
    encoder_id VARCHAR NOT NULL,
    cutoff VARCHAR NOT NULL,
    label_rule VARCHAR NOT NULL,
    horizon_days INTEGER NOT NULL,
    coef FLOAT[768] NOT NULL CHECK (isfinite(array_inner_product(coef, coef))),
    intercept DOUBLE NOT NULL CHECK (isfinite(intercept)),
    metrics JSON NOT NULL,
    training_hash VARCHAR NOT NULL,
    created_at TIMESTAMP NOT NULL
);
