-- evaluated_scorers: how many scorers of each task were evaluated on test patients of this store?
--
-- Grain:   one row per task (label_rule, n_scorers).
SELECT
    s.label_rule,
    count(DISTINCT e.scorer_id) AS n_scorers
FROM evaluations AS e
INNER JOIN scorers AS s ON e.scorer_id = s.scorer_id
WHERE e.store IS NULL
GROUP BY s.label_rule
ORDER BY s.label_rule;
