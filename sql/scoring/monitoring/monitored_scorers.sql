-- monitored_scorers: whose log odds of the new notes does a night record?
--
-- Grain:   one row per scorer: the one of tonight, and those of the last 30 nights by the same
--          encoder, as notes are new on one night only; those whose notes have a reference.
-- Columns: scorer_id, coef (of the vector).
-- Params:  scorer (scorer_id of tonight).
WITH nights AS (
    SELECT counts ->> '$.scorer' AS scorer_id
    FROM runs
    WHERE command = 'nightly'
    ORDER BY run_id DESC
    LIMIT 30
)

SELECT
    s.scorer_id,
    list_slice(s.coef, 1, len(s.coef) - 2 * coalesce(len(s.covariate_means), 0)) AS coef
FROM scorers AS s
INNER JOIN scorers AS tonight ON s.encoder_id = tonight.encoder_id
WHERE
    tonight.scorer_id = $scorer
    AND (s.scorer_id = $scorer OR s.scorer_id IN (SELECT n.scorer_id FROM nights AS n))
    AND s.scorer_id IN (SELECT r.scorer_id FROM reference_log_odds AS r)
ORDER BY s.scorer_id
