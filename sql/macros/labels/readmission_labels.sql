-- readmission_labels(horizon_days := 30, min_age := 0, planned_types := NULL, same_day :=
-- 'continuation', deaths := 'negative'): did the patient return unplanned within the horizon?
--
-- Grain:   one row per admission (hadm_id).
-- Rule:    after the hospital-wide measure of CMS (Horwitz et al. 2014, doi 10.7326/M13-3000). Days
--          are calendar days, the first return decides, and planned returns do not count.
--          Simpler than CMS: the admission type decides what is planned, every stay that begins on
--          the day of discharge continues the episode, and no diagnosis is excluded.
--          In a live hospital a return is known at once and a non-return only after the horizon.
--          Until then the row is not mature: training on it would select on the outcome.
CREATE OR REPLACE MACRO readmission_labels(
    horizon_days := 30,
    min_age := 0,
    planned_types := NULL,
    same_day := 'continuation',
    deaths := 'negative'
) AS TABLE
WITH params AS (
    SELECT
        CASE
            WHEN deaths IN ('negative', 'excluded', 'positive') THEN deaths
            ELSE error('unknown deaths - use negative, excluded or positive')
        END AS label_of_deaths
),

discharges AS (
    SELECT
        e.hadm_id,
        e.subject_id,
        a.dischtime,
        a.admittime,
        a.discharge_location,
        a.age,
        e.exclusion_reason,
        e.continued_by,
        e.episode_died,
        e.dod,
        CASE
            WHEN planned_types IS NULL THEN e.next_planned
            ELSE
                list_contains(
                    CAST(planned_types AS VARCHAR[]), coalesce(e.next_admission_type, '')
                )
        END AS next_planned,
        CAST(e.episode_discharge AS DATE) AS discharge_date,
        CAST(e.next_admittime AS DATE) AS return_date,
        e.next_admittime,
        -- Returns are counted from a discharge, so a stay without one has none.
        CASE WHEN e.discharge IS NOT NULL THEN e.next_hadm_id END AS next_hadm_id,
        CASE
            WHEN e.discharge IS NOT NULL
                THEN date_diff('day', e.episode_discharge, e.next_admittime)
        END AS days_to_return,
        -- The horizon begins with the discharge, and its last day must be over.
        CAST(
            CAST(coalesce(e.episode_discharge, e.discharge) AS DATE)
            + CAST(horizon_days AS INTEGER) + 1 AS TIMESTAMP
        ) AS mature_at
    FROM patient_episodes(same_day := same_day) AS e
    INNER JOIN admissions AS a ON e.hadm_id = a.hadm_id
),

competing_deaths AS (
    SELECT
        d.*,
        (NOT s.live AND s.observed_until IS NULL)
        OR coalesce(d.mature_at <= s.observed_until, FALSE) AS mature,
        CASE
            WHEN d.discharge_date IS NOT NULL
                THEN coalesce(
                    NOT d.episode_died
                    AND d.dod BETWEEN d.discharge_date
                    AND d.discharge_date + CAST(horizon_days AS INTEGER)
                    AND (d.return_date IS NULL OR d.return_date > d.dod),
                    FALSE
                )
        END AS died_within_horizon
    FROM discharges AS d
    CROSS JOIN settings AS s
),

reasons AS (
    SELECT
        *,
        coalesce(days_to_return <= horizon_days, FALSE) AS returned,
        CASE
            WHEN exclusion_reason IS NOT NULL THEN exclusion_reason
            WHEN min_age > 0 AND age IS NULL THEN 'age not known'
            WHEN min_age > 0 AND age < min_age THEN 'younger than ' || CAST(min_age AS INTEGER)
            WHEN dischtime IS NULL THEN 'no discharge time'
            WHEN dischtime < admittime THEN 'discharge before admission'
            WHEN continued_by IS NOT NULL THEN 'continued by ' || continued_by
            WHEN episode_died THEN 'died in hospital'
            -- MIMIC-III truncates the first value.
            WHEN discharge_location IN ('LEFT AGAINST MEDICAL ADVI', 'AGAINST ADVICE')
                THEN 'left against medical advice'
            WHEN discharge_location IN ('SHORT TERM HOSPITAL', 'ACUTE HOSPITAL')
                THEN 'transferred to acute hospital'
            WHEN died_within_horizon AND params.label_of_deaths = 'excluded'
                THEN 'died after discharge'
        END AS not_an_index,
        died_within_horizon AND params.label_of_deaths = 'positive' AS death_counts
    FROM competing_deaths
    CROSS JOIN params
),

labels AS (
    SELECT
        *,
        CASE
            WHEN not_an_index IS NOT NULL THEN NULL
            WHEN death_counts THEN TRUE
            WHEN returned THEN NOT next_planned
            WHEN mature THEN FALSE
        END AS label
    FROM reasons
)

SELECT
    hadm_id,
    subject_id,
    dischtime,
    label,
    CASE
        WHEN not_an_index IS NOT NULL THEN not_an_index
        WHEN label IS NULL THEN 'horizon not yet observed'
        WHEN death_counts THEN 'died after discharge'
        WHEN returned AND next_planned THEN 'planned return'
    END AS reason,
    mature,
    CASE
        WHEN label IS NULL THEN NULL
        -- Only the date of death is known.
        WHEN death_counts THEN CAST(dod + 1 AS TIMESTAMP)
        WHEN returned THEN next_admittime
        ELSE mature_at
    END AS known_at,
    next_hadm_id,
    days_to_return,
    died_within_horizon,
    mature_at
FROM labels;

COMMENT ON MACRO TABLE readmission_labels IS
'readmission_labels(horizon_days := 30, min_age := 0, planned_types := NULL, same_day :=
''continuation'', deaths := ''negative''): did the patient return unplanned within the horizon?
One row per admission (hadm_id).
label: TRUE, FALSE, or NULL with a reason.
mature: the horizon is over; train and evaluate on mature labels only. An extract is fully observed.
known_at: when the label became known, at the return or after the last day of the horizon.
next_hadm_id, days_to_return: the first return, whatever the horizon.
died_within_horizon: after discharge, with no return before (a competing risk).
mature_at: the start of the day after the last day of the horizon.
min_age: younger patients are no index. planned_types: a list of admission types that count as
planned (NULL: the column planned). same_day: whether a stay that begins on the day of the discharge
is a continuation or a return. deaths: whether a death within the horizon, with no return before, is
negative, excluded or positive.';
