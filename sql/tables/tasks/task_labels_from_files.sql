-- task_labels_from_files: the labels of tasks that were added from a file.
--
-- Grain:   one row per task and admission (task, hadm_id).
CREATE TABLE task_labels_from_files (
    task VARCHAR NOT NULL,
    hadm_id BIGINT NOT NULL,
    label BOOLEAN,
    reason VARCHAR,
    known_at TIMESTAMP,
    prediction_time TIMESTAMP
);

COMMENT ON TABLE task_labels_from_files IS
'The labels of tasks that were added from a file.
One row per task and admission (task, hadm_id).';
COMMENT ON COLUMN task_labels_from_files.reason IS 'Why there is no label.';
COMMENT ON COLUMN task_labels_from_files.known_at IS
'When the label was known; where the file does not say so, when the task was added.';
