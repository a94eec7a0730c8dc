-- task_select(task, horizon_days): what is the SELECT of a task?
--
-- A map of the tasks to their texts is filled in when the macro is made.
CREATE OR REPLACE MACRO task_select(task, horizon_days) AS
CASE
    WHEN map_contains($selects, coalesce(task, 'readmission'))
        THEN replace(
            map_extract_value($selects, coalesce(task, 'readmission')),
            '$horizon_days',
            CAST(coalesce(CAST(horizon_days AS INTEGER), 30) AS VARCHAR)
        )
    ELSE
        error(
            'unknown task ' || task || ' - known: ' || array_to_string(map_keys($selects), ', ')
        )
END;

COMMENT ON MACRO task_select IS
'task_select(task, horizon_days): what is the SELECT of a task?
task_labels runs it.';
