-- test_predictions: which probabilities did the scorer and its baselines give to test stays?
--
-- Grain:   one row per predicted test admission, ordered by hadm_id; also those without a label.
-- Params:  scorer (scorer_id).
-- Columns: those of scorer_admissions: probability of the scorer, and a column per baseline, which
--          the list BASELINES names.
SELECT *  -- noqa: AM04
FROM scorer_admissions
WHERE scorer_id = $scorer AND split = 'test'
ORDER BY hadm_id
