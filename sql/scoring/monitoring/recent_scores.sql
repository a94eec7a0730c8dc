-- recent_scores: which scores did stays get that came after the training period?
--
-- Grain:   one row per stay, with its first score.
-- Columns: night (0 is the last run with such scores, 1 the one before), probability.
-- Params:  scorer (scorer_id), nights.
WITH first_scores AS (
    SELECT
        s.hadm_id,
        min(s.run_id) AS run_id,
        arg_min(s.probability, s.run_id) AS probability
    FROM scores AS s
    ANTI JOIN reference_scores AS r ON s.scorer_id = r.scorer_id AND s.hadm_id = r.hadm_id
    WHERE s.scorer_id = $scorer
    GROUP BY s.hadm_id
),

numbered AS (
    SELECT
        dense_rank() OVER (ORDER BY run_id DESC) - 1 AS night,
        probability
    FROM first_scores
)

SELECT
    night,
    probability
FROM numbered
WHERE night < $nights
ORDER BY night, probability
