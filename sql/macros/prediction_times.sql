-- prediction_times(cutoff := '72h'): when is the prediction for a stay made?
--
-- Grain:   one row per admission with a prediction (hadm_id).
-- Rule:    Some hours after admission, for stays at least that long; or some hours after the
--          discharge of its episode, for patients who had not returned or died by then. Newborns,
--          stays after death and observation stays have no prediction. Or the time that a task
--          gives. In a live hospital the time must have passed.
CREATE OR REPLACE MACRO prediction_times(cutoff := '72h') AS TABLE
WITH cutoffs AS (
    SELECT
        CASE
            WHEN
                cutoff LIKE 'task:%'
                AND cutoff NOT IN (SELECT 'task:' || t.name FROM self_timed_tasks AS t)
                THEN error(
                    'unknown cutoff ' || cutoff || ' - tasks with a prediction time of their own: '
                    || coalesce(
                        (
                            SELECT string_agg(t.name, ', ' ORDER BY t.name)
                            FROM self_timed_tasks AS t
                        ),
                        'none'
                    )
                )
            ELSE canonical_cutoff(cutoff)
        END AS cutoff_name
),

params AS (
    SELECT
        cutoff_name,
        to_hours(
            CAST(nullif(regexp_extract(cutoff_name, '([0-9]+)h$', 1), '') AS INTEGER)
        ) AS hours,
        cutoff_name LIKE 'discharge%' AS after_discharge,
        (SELECT s.observed_until FROM settings AS s) AS observed_until
    FROM cutoffs
),

stays AS (
    SELECT
        e.hadm_id,
        e.admittime,
        e.discharge,
        e.episode_died,
        e.dod,
        e.continued_by,
        e.next_admittime,
        -- A patient who is still in hospital has stayed until now.
        coalesce(least(e.discharge, a.deathtime), params.observed_until) AS stayed_until,
        params.after_discharge,
        CASE
            -- A stay inside a longer one: until then the patient is in hospital.
            WHEN params.after_discharge THEN e.episode_discharge + params.hours
            ELSE e.admittime + params.hours
        END AS prediction_time
    -- Within a day of the discharge, a return on the same day may still be to come.
    FROM patient_episodes(
        same_day := CASE
            WHEN regexp_full_match(cutoff, 'discharge\+0*(1?[0-9]|2[0-3])h') THEN 'return'
            ELSE 'continuation'
        END
    ) AS e
    INNER JOIN admissions AS a ON e.hadm_id = a.hadm_id
    CROSS JOIN params
    WHERE e.exclusion_reason IS NULL AND (a.dischtime IS NULL OR e.discharge IS NOT NULL)
),

predictions AS (
    SELECT
        hadm_id,
        prediction_time
    FROM stays
    WHERE
        CASE
            WHEN after_discharge
                THEN
                    continued_by IS NULL
                    AND discharge IS NOT NULL
                    AND NOT episode_died
                    AND coalesce(next_admittime > prediction_time, TRUE)
                    -- Only the date of death is known: that whole day counts as dead.
                    AND coalesce(dod > CAST(prediction_time AS DATE), TRUE)
            ELSE stayed_until >= prediction_time
        END
    UNION ALL
    SELECT
        t.hadm_id,
        t.prediction_time
    FROM task_predictions AS t
    INNER JOIN params ON 'task:' || t.task = params.cutoff_name
    WHERE cutoff LIKE 'task:%'
)

SELECT
    p.hadm_id,
    p.prediction_time
FROM predictions AS p
CROSS JOIN params
WHERE p.prediction_time <= coalesce(params.observed_until, p.prediction_time);

COMMENT ON MACRO TABLE prediction_times IS
'prediction_times(cutoff := ''72h''): when is the prediction for a stay made?
One row per admission with a prediction (hadm_id).
cutoff: hours after admission such as 36h; hours after the last discharge of the episode, such as
discharge+0h (discharge is discharge+48h); or task:NAME of a task that gives its prediction times.';
