-- episodes: which stays follow each other without a break?
--
-- Grain:   one row per admission (hadm_id).
CREATE OR REPLACE VIEW episodes AS
WITH stays AS (
    SELECT
        hadm_id,
        subject_id,
        admittime,
        dischtime,
        dod,
        planned,
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
        coalesce(
            CAST(admittime AS DATE) > CAST(max(discharge) OVER earlier_stays AS DATE), TRUE
        ) AS opens_episode
    FROM stays
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
    CASE WHEN closes_episode THEN next_planned END AS next_planned
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
    NULL AS next_planned
FROM stays
WHERE exclusion_reason IS NOT NULL;

COMMENT ON VIEW episodes IS
'Which stays follow each other without a break?
One row per admission (hadm_id).';
COMMENT ON COLUMN episodes.exclusion_reason IS
'Why a stay is neither a return nor part of an episode, else NULL.';
COMMENT ON COLUMN episodes.discharge IS 'dischtime, unless it precedes the admission.';
COMMENT ON COLUMN episodes.died IS 'Whether the patient died in this stay.';
COMMENT ON COLUMN episodes.episode IS 'Number of the episode, per patient.';
COMMENT ON COLUMN episodes.continued_by IS 'The next stay of the episode; NULL for its last stay.';
COMMENT ON COLUMN episodes.episode_discharge IS
'Latest discharge of the episode; only for its last stay.';
COMMENT ON COLUMN episodes.episode_died IS
'Whether the patient died in the episode; only for its last stay.';
COMMENT ON COLUMN episodes.next_hadm_id IS 'First stay after the episode; only for its last stay.';
COMMENT ON COLUMN episodes.next_admittime IS 'Start of the first stay after the episode.';
COMMENT ON COLUMN episodes.next_planned IS 'Whether the first stay after the episode was planned.';
