-- evaluations($scorer): when and on whom was a scorer evaluated?
--
-- Grain:   one row per evaluation, by time.
-- Columns: evaluated_at, store (NULL for the test patients of this one), admissions, positives,
--          auroc (estimate, low, high).
SELECT
    evaluated_at,
    store,
    admissions,
    positives,
    CAST(json_extract(metrics, '$.auroc') AS DOUBLE[]) AS auroc
FROM evaluations
WHERE scorer_id = $scorer
ORDER BY evaluated_at;
