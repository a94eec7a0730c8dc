-- test_predictions: which probabilities did the scorer and its baselines give to test stays?
--
-- Grain:   one row per predicted test admission, ordered by hadm_id; also those without a label.
-- Params:  scorer (scorer_id).
SELECT
    label,
    probability AS scorer,
    bag_of_words,
    classifier_head,
    prior_admissions
FROM scorer_admissions
WHERE scorer_id = $scorer AND split = 'test'
ORDER BY hadm_id
