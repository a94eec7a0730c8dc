-- task_predictions($task, $labels): when does a task predict?
--
-- Grain:   one row per admission with a prediction (task, hadm_id).
SELECT
    CAST($task AS VARCHAR) AS task,
    hadm_id,
    prediction_time
FROM query($labels)
WHERE prediction_time IS NOT NULL
