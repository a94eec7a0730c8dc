-- scorers: the fitted logistic regressions.
--
-- Grain:   one row per fit (scorer_id: its name and version, such as readmit-72h-v1).
-- Columns: coef and intercept (log odds; standardisation, and of a mean calibration too, is folded
--          in, so that the score is one inner product; in double precision, because of vectors
--          that lie far from zero a float would lose the fourth digit of a probability), metrics
--          (JSON), training_hash (SHA-256 of the rows fitted on), aggregate (mean: of an
--          admission's mean embedding; clinicalbert: of its windows, put together as
--          (Pmax + Pmean * n / 2) / (1 + n / 2)), calibration_slope and calibration_intercept
--          (applied to the log odds of what the windows make together), coef_hash (SHA-256 of
--          coefficients, intercept and calibration as they were written).
CREATE TABLE scorers (
    scorer_id VARCHAR NOT NULL,
    name VARCHAR NOT NULL,
    version INTEGER NOT NULL,
    encoder_id VARCHAR NOT NULL,
    cutoff VARCHAR NOT NULL,
    label_rule VARCHAR NOT NULL,
    horizon_days INTEGER NOT NULL,
    coef DOUBLE[768] NOT NULL CHECK (isfinite(array_inner_product(coef, coef))),
    intercept DOUBLE NOT NULL CHECK (isfinite(intercept)),
    metrics JSON NOT NULL,
    training_hash VARCHAR NOT NULL,
    created_at TIMESTAMP NOT NULL,
    aggregate VARCHAR NOT NULL,
    calibration_slope DOUBLE NOT NULL,
    calibration_intercept DOUBLE NOT NULL,
    coef_hash VARCHAR NOT NULL
);
