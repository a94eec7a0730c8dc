-- task_labels(task := 'readmission', horizon_days := 30): what is the label of each admission?
--
-- Grain:   one row per admission of the task (hadm_id).
CREATE OR REPLACE MACRO task_labels(task := 'readmission', horizon_days := 30) AS TABLE
WITH labels AS (
    -- Columns that a task need not give are NULL.
    SELECT
        CAST(NULL AS BIGINT) AS hadm_id,
        CAST(NULL AS BOOLEAN) AS label,
        CAST(NULL AS VARCHAR) AS reason,
        CAST(NULL AS TIMESTAMP) AS known_at,
        CAST(NULL AS TIMESTAMP) AS prediction_time,
        CAST(NULL AS TIMESTAMP) AS event_at,
        CAST(NULL AS BOOLEAN) AS died_within_horizon
    WHERE FALSE
    UNION ALL BY NAME
    FROM query(task_select(task, horizon_days))
)

SELECT
    l.hadm_id,
    a.subject_id,
    l.label,
    l.reason,
    (NOT s.live AND s.observed_until IS NULL)
    OR coalesce(l.known_at <= s.observed_until, FALSE) AS mature,
    l.known_at,
    l.prediction_time,
    l.event_at,
    l.died_within_horizon
FROM labels AS l
INNER JOIN admissions AS a ON l.hadm_id = a.hadm_id
CROSS JOIN settings AS s;

COMMENT ON MACRO TABLE task_labels IS
'task_labels(task := ''readmission'', horizon_days := 30): what is the label of each admission?
One row per admission of the task (hadm_id).
label: TRUE, FALSE, or NULL with a reason.
known_at: when the label is known, whichever it is. mature: it is known by now.
prediction_time: of a task that gives it. event_at: when the outcome happened, of a task that says so.
horizon_days: of a task whose SELECT has one.';
