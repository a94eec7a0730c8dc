-- scorers: the fitted logistic regressions.
--
-- Grain:   one row per fit (scorer_id: name and version, such as readmit-72h-v1).
-- Coefficients are DOUBLE: for vectors far from zero, FLOAT loses the fourth digit of a
-- probability.
CREATE TABLE scorers (
    scorer_id VARCHAR NOT NULL,
    name VARCHAR NOT NULL,
    version INTEGER NOT NULL,
    encoder_id VARCHAR NOT NULL,
    cutoff VARCHAR NOT NULL,
    label_rule VARCHAR NOT NULL,
    horizon_days INTEGER,
    coef DOUBLE[] NOT NULL CHECK (isfinite(list_inner_product(coef, coef))),
    intercept DOUBLE NOT NULL CHECK (isfinite(intercept)),
    metrics JSON NOT NULL,
    training_hash VARCHAR NOT NULL,
    created_at TIMESTAMP NOT NULL,
    aggregate VARCHAR NOT NULL,
    calibration_slope DOUBLE NOT NULL,
    calibration_intercept DOUBLE NOT NULL,
    min_probability DOUBLE NOT NULL,
    max_probability DOUBLE NOT NULL,
    coef_hash VARCHAR NOT NULL,
    task_sql VARCHAR NOT NULL,
    task_hash VARCHAR NOT NULL,
    covariates_id VARCHAR,
    covariate_means DOUBLE[]
);

COMMENT ON TABLE scorers IS
'The fitted logistic regressions.
One row per fit (scorer_id: name and version, such as readmit-72h-v1).';
COMMENT ON COLUMN scorers.label_rule IS 'Name of the task.';
COMMENT ON COLUMN scorers.horizon_days IS 'NULL for a task without a horizon.';
COMMENT ON COLUMN scorers.task_sql IS 'The SELECT of the task when the scorer was fitted.';
COMMENT ON COLUMN scorers.task_hash IS 'SHA-256 of the SELECT.';
COMMENT ON COLUMN scorers.coef IS
'Log odds per dimension, standardisation folded in; but for clinicalbert, calibration too.';
COMMENT ON COLUMN scorers.intercept IS
'Log odds, standardisation folded in; but for clinicalbert, calibration too.';
COMMENT ON COLUMN scorers.metrics IS 'The evaluation, as JSON.';
COMMENT ON COLUMN scorers.training_hash IS 'SHA-256 of the rows that the regression was fitted on.';
COMMENT ON COLUMN scorers.aggregate IS
'The vector that is scored: mean of the windows, max (of each element), mean-of-notes (each the mean
of its windows) or last-note (the mean of its windows). clinicalbert: score each window and
combine their probabilities as (Pmax + Pmean * n / 2) / (1 + n / 2).';
COMMENT ON COLUMN scorers.covariates_id IS
'The set of covariates; NULL without. Their coefficients follow those of the vector in coef, two for
each covariate, in the order of admission_covariates.design.';
COMMENT ON COLUMN scorers.covariate_means IS
'Of the training stays that have each covariate; NULL without covariates.';
COMMENT ON COLUMN scorers.calibration_slope IS
'Applied to the log odds of the combined probability.';
COMMENT ON COLUMN scorers.calibration_intercept IS
'Applied to the log odds of the combined probability.';
COMMENT ON COLUMN scorers.min_probability IS
'No probability is lower; by the number of negatives that it was calibrated on.';
COMMENT ON COLUMN scorers.max_probability IS
'No probability is higher; by the number of positives that it was calibrated on.';
COMMENT ON COLUMN scorers.coef_hash IS
'SHA-256 of coefficients, intercepts, slope and limits when they were written.';
