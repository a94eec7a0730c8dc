-- patient_episodes(same_day := 'continuation'): which stays follow each other without a break?
--
-- Grain:   one row per admission (hadm_id).
CREATE OR REPLACE MACRO patient_episodes(same_day := 'continuation') AS TABLE
WITH params AS (
    SELECT
        CASE same_day
            WHEN 'continuation' THEN FALSE
            WHEN 'return' THEN TRUE
            ELSE error('unknown same_day - use continuation or return')
        END AS same_day_returns
),

stays AS (
    SELECT
        hadm_id,
        subject_id,
        admittime,
        dischtime,
        dod,
        planned,
        admission_type,
        CASE WHEN dischtime >= admittime THEN dischtime END AS discharge,
        -- The three can disagree: any of them counts.
        died_in_hospital
        OR deathtime IS NOT NULL
        OR coalesce(discharge_location IN ('DEAD/EXPIRED', 'DIED'), FALSE) AS died,
        CASE
            WHEN admission_type = 'NEWBORN' THEN 'newborn'
            -- Organ donors are admitted again after their death.
            WHEN admittime > min(deathtime) OVER earlier_stays OR CAST(admittime AS DATE) > dod
                THEN 'admitted after death'
            -- MIMIC-IV's short ones; OBSERVATION ADMIT is an inpatient stay.
            WHEN
                admission_type IN (
                    'EU OBSERVATION', 'DIRECT OBSERVATION', 'AMBULATORY OBSERVATION'
                )
                THEN 'observation stay'
        END AS exclusion_reason
    FROM admissions
    WINDOW
        earlier_stays AS (
            PARTITION BY subject_id
            ORDER BY admittime, dischtime NULLS LAST, hadm_id
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        )
),

openings AS (
    SELECT
        *,
        -- A stay that begins on the day of the latest discharge so far, or earlier, continues.
        -- Where same-day returns count, only one that begins before that discharge does.
        coalesce(
            CAST(admittime AS DATE) > CAST(max(discharge) OVER earlier_stays AS DATE)
            OR (params.same_day_returns AND admittime >= max(discharge) OVER earlier_stays),
            TRUE
        ) AS opens_episode
    FROM stays
    CROSS JOIN params
    WHERE exclusion_reason IS NULL
    WINDOW
        earlier_stays AS (
            PARTITION BY subject_id
            ORDER BY admittime, dischtime NULLS LAST, hadm_id
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        )
),

numbered AS (
    SELECT
        *,
        sum(CAST(opens_episode AS INTEGER)) OVER (
            stays_in_order ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) AS episode,
        lead(hadm_id) OVER stays_in_order AS next_hadm_id,
        lead(admittime) OVER stays_in_order AS next_admittime,
        lead(planned) OVER stays_in_order AS next_planned,
        lead(admission_type) OVER stays_in_order AS next_admission_type,
        coalesce(lead(opens_episode) OVER stays_in_order, TRUE) AS closes_episode
    FROM openings
    WINDOW
        stays_in_order AS (
            PARTITION BY subject_id ORDER BY admittime, dischtime NULLS LAST, hadm_id
        )
),

closed AS (
    SELECT
        *,
        max(discharge) OVER whole_episode AS episode_discharge,
        bool_or(died) OVER whole_episode AS episode_died
    FROM numbered
    WINDOW whole_episode AS (PARTITION BY subject_id, episode)
)

SELECT
    hadm_id,
    subject_id,
    admittime,
    discharge,
    dod,
    died,
    NULL AS exclusion_reason,
    CAST(episode AS BIGINT) AS episode,
    CASE WHEN NOT closes_episode THEN next_hadm_id END AS continued_by,
    CASE WHEN closes_episode THEN episode_discharge END AS episode_discharge,
    CASE WHEN closes_episode THEN episode_died END AS episode_died,
    CASE WHEN closes_episode THEN next_hadm_id END AS next_hadm_id,
    CASE WHEN closes_episode THEN next_admittime END AS next_admittime,
    CASE WHEN closes_episode THEN next_planned END AS next_planned,
    CASE WHEN closes_episode THEN next_admission_type END AS next_admission_type
FROM closed
UNION ALL
SELECT
    hadm_id,
    subject_id,
    admittime,
    discharge,
    dod,
    died,
    exclusion_reason,
    NULL AS episode,
    NULL AS continued_by,
    NULL AS episode_discharge,
    NULL AS episode_died,
    NULL AS next_hadm_id,
    NULL AS next_admittime,
    NULL AS next_planned,
    NULL AS next_admission_type
FROM stays
WHERE exclusion_reason IS NOT NULL;

COMMENT ON MACRO TABLE patient_episodes IS
'patient_episodes(same_day := ''continuation''): which stays follow each other without a break?
One row per admission (hadm_id); columns as in the view episodes.
same_day: whether a stay that begins on the day of the discharge, but not before it, continues the
episode (continuation) or is a return (return).';
