-- changes/changed_stays($after, $observed_until, $hours): which stays may have changed since a run?
--
-- Grain:   one row per stay (hadm_id).
-- Rule:    all stays of the patients of stays that were logged, or where a prediction time has
--          passed since $observed_until (NULL: none has). All, because whether a stay is predicted
--          depends on the stays before and after it, also if only one of its notes changed.
CREATE OR REPLACE TEMP TABLE changed_stays AS
WITH logged AS (
    SELECT
        hadm_id,
        subject_id
    FROM changed_admissions
    WHERE run_id > $after
),

patients AS (
    SELECT subject_id
    FROM logged
    UNION
    SELECT a.subject_id
    FROM admissions AS a
    SEMI JOIN logged AS l ON a.hadm_id = l.hadm_id
    UNION
    SELECT subject_id
    FROM admissions
    WHERE greatest(admittime, dischtime) + to_hours($hours) >= CAST($observed_until AS TIMESTAMP)
    UNION
    SELECT a.subject_id
    FROM task_predictions AS p
    INNER JOIN admissions AS a ON p.hadm_id = a.hadm_id
    WHERE p.prediction_time >= CAST($observed_until AS TIMESTAMP)
)

SELECT hadm_id
FROM logged
UNION
SELECT a.hadm_id
FROM admissions AS a
SEMI JOIN patients AS p ON a.subject_id = p.subject_id;
