-- kept_cutoffs: at which cutoffs does every night keep the means of the admissions?
--
-- Grain:   one row per cutoff.
CREATE OR REPLACE VIEW kept_cutoffs AS
SELECT unnest(['24h', '48h', '72h', 'discharge+48h']) AS cutoff
UNION
SELECT 'task:' || name AS cutoff
FROM tasks
WHERE gives_prediction_time
UNION
SELECT cutoff
FROM scorers
WHERE
    cutoff NOT LIKE 'task:%'
    OR cutoff IN (SELECT 'task:' || t.name FROM self_timed_tasks AS t);

COMMENT ON VIEW kept_cutoffs IS
'At which cutoffs does every night keep the means of the admissions?
One row per cutoff: four of the start, those of scorers, and those of tasks with prediction times of
their own.';
