-- self_timed_tasks: which tasks give their own prediction times?
--
-- Grain:   one row per task (name). icu_readmission is one where there are stays in intensive care.
CREATE OR REPLACE VIEW self_timed_tasks AS
SELECT name
FROM tasks
WHERE gives_prediction_time
UNION ALL
SELECT 'icu_readmission' AS name
WHERE EXISTS (SELECT 1 FROM icu_stays);

COMMENT ON VIEW self_timed_tasks IS
'Which tasks give their own prediction times?
One row per task (name). icu_readmission is one where there are stays in intensive care.';
