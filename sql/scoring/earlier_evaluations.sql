-- earlier_evaluations($scorer): which other scorers of its task were evaluated on test patients?
--
-- Grain:   one row per scorer (scorer_id), by age.
SELECT s.scorer_id
FROM scorers AS s
INNER JOIN scorers AS this ON s.label_rule = this.label_rule
WHERE
    this.scorer_id = $scorer
    AND s.scorer_id <> this.scorer_id
    AND s.scorer_id IN (SELECT e.scorer_id FROM evaluations AS e WHERE e.store IS NULL)
ORDER BY s.created_at, s.scorer_id;
