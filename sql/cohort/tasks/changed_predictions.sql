-- changed_predictions($task, $labels): how many prediction times of a task changed?
WITH given AS (
    SELECT
        hadm_id,
        prediction_time
    FROM query($labels)
    WHERE prediction_time IS NOT NULL
),

stored AS (
    SELECT
        hadm_id,
        prediction_time
    FROM task_predictions
    WHERE task = $task
)

SELECT count(*)
FROM given
FULL JOIN stored ON given.hadm_id = stored.hadm_id
WHERE given.prediction_time IS DISTINCT FROM stored.prediction_time;
