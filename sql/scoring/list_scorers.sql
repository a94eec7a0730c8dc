-- list_scorers: which scorers does the store hold, and how good were they on the test patients?
--
-- Grain:   one row per scorer (scorer_id), the oldest first.
-- Columns: those of scorers, test_auroc (estimate, low, high), no_signal
--          (why all probabilities are the prevalence; NULL if they are not).
SELECT
    scorer_id,
    encoder_id,
    cutoff,
    horizon_days,
    label_rule,
    aggregate,
    CAST(metrics -> '$.test.scorer.auroc' AS DOUBLE[]) AS test_auroc,
    metrics ->> '$.no_signal' AS no_signal,
    created_at
FROM scorers
ORDER BY created_at
