-- prediction_times(cutoff := '72h'): when is the prediction for a stay made?
--
-- Grain:   one row per admission with a prediction (hadm_id).
-- Rule:    24h, 48h or 72h after admission, for stays at least that long; or, for 'discharge', 48
--          hours after the discharge of its episode (when transition-of-care programmes act), for
--          patients who had not returned or died by then. Newborns, stays after death and
--          observation stays have no prediction. In a live hospital the time must have passed.
CREATE OR REPLACE MACRO prediction_times(cutoff := '72h') AS TABLE
WITH params AS (
    SELECT
        CASE cutoff
            WHEN '24h' THEN INTERVAL 24 HOURS
            WHEN '48h' THEN INTERVAL 48 HOURS
            WHEN '72h' THEN INTERVAL 72 HOURS
            WHEN 'discharge' THEN NULL
            ELSE error('unknown cutoff - use 24h, 48h, 72h or discharge')
        END AS hours,
        (SELECT s.observed_until FROM settings AS s) AS observed_until
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
        params.hours,
        params.observed_until,
        CASE
            WHEN params.hours IS NOT NULL THEN e.admittime + params.hours
            -- A stay inside a longer one: until then the patient is in hospital.
            ELSE e.episode_discharge + INTERVAL 48 HOURS
        END AS prediction_time
    FROM episodes AS e
    INNER JOIN admissions AS a ON e.hadm_id = a.hadm_id
    CROSS JOIN params
    WHERE e.exclusion_reason IS NULL AND (a.dischtime IS NULL OR e.discharge IS NOT NULL)
)

SELECT
    hadm_id,
    prediction_time
FROM stays
WHERE
    prediction_time <= coalesce(observed_until, prediction_time)
    AND CASE
        WHEN hours IS NOT NULL THEN stayed_until >= prediction_time
        ELSE
            continued_by IS NULL
            AND discharge IS NOT NULL
            AND NOT episode_died
            AND coalesce(next_admittime > prediction_time, TRUE)
            -- Only the date of death is known: that whole day counts as dead.
            AND coalesce(dod > CAST(prediction_time AS DATE), TRUE)
    END;

COMMENT ON MACRO TABLE prediction_times IS
'prediction_times(cutoff := ''72h''): when is the prediction for a stay made?
One row per admission with a prediction (hadm_id).
cutoff: 24h, 48h, 72h or discharge (48 hours after the last discharge of the episode).';
