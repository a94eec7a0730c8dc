-- due_scores($scorer): which admissions have no score by this scorer, or would get another one?
--
-- Grain:   one row per admission (hadm_id).
-- Columns: those of score_admissions.
WITH last_scores AS (
    SELECT
        hadm_id,
        prediction_time,
        probability
    FROM latest_scores
    WHERE scorer_id = $scorer
)

SELECT
    s.hadm_id,
    s.prediction_time,
    s.probability,
    s.input_hash
FROM score_admissions($scorer) AS s
ANTI JOIN last_scores AS l
    ON
        s.hadm_id = l.hadm_id
        AND s.prediction_time = l.prediction_time
        AND s.probability = l.probability
