-- task_predictions: the prediction times of tasks that give their own.
--
-- Grain:   one row per task and admission (task, hadm_id).
-- Every job that embeds writes them again from the SELECT of the task.
CREATE TABLE task_predictions (
    task VARCHAR NOT NULL,
    hadm_id BIGINT NOT NULL,
    prediction_time TIMESTAMP NOT NULL
);

COMMENT ON TABLE task_predictions IS
'The prediction times of tasks that give their own.
One row per task and admission (task, hadm_id).';
