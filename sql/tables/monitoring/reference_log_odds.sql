-- reference_log_odds: the notes that a scorer's nights are compared with, in log odds.
--
-- Grain:   one row per scorer and note category (scorer_id, category), and one with the category
--          `all notes`; never updated.
-- The log odds of a note are the mean over its windows of the inner product with the coefficients.
-- The notes are those of validation and test patients, on whom nothing was fitted.
CREATE TABLE reference_log_odds (
    scorer_id VARCHAR NOT NULL,
    category VARCHAR NOT NULL,
    n_notes INTEGER NOT NULL,
    n_patients INTEGER NOT NULL,
    low DOUBLE NOT NULL,
    high DOUBLE NOT NULL,
    mean DOUBLE NOT NULL,
    spread DOUBLE NOT NULL,
    skewness DOUBLE NOT NULL,
    same_day DOUBLE NOT NULL,
    same_patient DOUBLE NOT NULL,
    standard_error DOUBLE NOT NULL
);

COMMENT ON TABLE reference_log_odds IS
'The notes that a scorer''s nights are compared with, in log odds.
One row per scorer and note category (scorer_id, category), and one with the category `all notes`.';
COMMENT ON COLUMN reference_log_odds.low IS 'Log odds below are limited to it (0.5% quantile).';
COMMENT ON COLUMN reference_log_odds.high IS 'Log odds above are limited to it (99.5% quantile).';
COMMENT ON COLUMN reference_log_odds.mean IS
'Of the limited log odds. Of all notes: 0, as each is measured from the mean of its category.';
COMMENT ON COLUMN reference_log_odds.spread IS
'Standard deviation of the limited log odds. Of all notes: 1, in spreads of their categories.';
COMMENT ON COLUMN reference_log_odds.same_day IS
'Correlation of the notes that one patient got on one day.';
COMMENT ON COLUMN reference_log_odds.same_patient IS
'Correlation of the notes of one patient on different days.';
COMMENT ON COLUMN reference_log_odds.standard_error IS
'Of the mean, in spreads; notes of a patient are one cluster.';
