-- clinicalbert_labels(horizon_days := 30): what is the label by the rule of ClinicalBERT?
--
-- Grain:   one row per admission (hadm_id).
-- Rule:    Huang, Altosaar, Ranganath 2019 (arXiv 1904.05342): the next admission of the patient
--          that is not ELECTIVE, in the order of admission times, within 30 x 24 hours of the
--          discharge. Only newborns and stays with a time of death are excluded. So a stay that
--          began before the discharge counts as a return, and so do transfers and returns on the
--          same day. mature is the same as in readmission_labels, by calendar days.
CREATE OR REPLACE MACRO clinicalbert_labels(horizon_days := 30) AS TABLE
WITH returns AS (
    SELECT
        *,
        min(admittime) FILTER (WHERE admission_type IS DISTINCT FROM 'ELECTIVE')
            OVER later_stays AS next_admittime,
        arg_min(hadm_id, admittime) FILTER (WHERE admission_type IS DISTINCT FROM 'ELECTIVE')
            OVER later_stays AS next_hadm_id
    FROM admissions
    WINDOW
        later_stays AS (
            PARTITION BY subject_id
            ORDER BY admittime, hadm_id
            ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING
        )
),

intervals AS (
    SELECT
        *,
        epoch(next_admittime - dischtime) / 86400 AS days_to_return,
        CASE
            WHEN admission_type = 'NEWBORN' THEN 'newborn'
            WHEN deathtime IS NOT NULL THEN 'died in hospital'
        END AS not_an_index,
        CAST(
            CAST(dischtime AS DATE) + CAST(horizon_days AS INTEGER) + 1 AS TIMESTAMP
        ) AS mature_at,
        (NOT s.live AND s.observed_until IS NULL)
        OR coalesce(mature_at <= s.observed_until, FALSE) AS mature
    FROM returns
    CROSS JOIN settings AS s
),

labels AS (
    SELECT
        *,
        CASE
            WHEN not_an_index IS NOT NULL THEN NULL
            WHEN days_to_return < horizon_days THEN TRUE
            WHEN mature THEN FALSE
        END AS label
    FROM intervals
)

SELECT
    hadm_id,
    subject_id,
    dischtime,
    label,
    CASE
        WHEN not_an_index IS NOT NULL THEN not_an_index
        WHEN label IS NULL THEN 'horizon not yet observed'
    END AS reason,
    mature,
    CASE
        WHEN label THEN greatest(next_admittime, dischtime)
        WHEN NOT label THEN dischtime + to_days(CAST(horizon_days AS INTEGER))
    END AS known_at,
    next_hadm_id,
    days_to_return,
    coalesce(
        deathtime IS NULL
        AND dod BETWEEN CAST(dischtime AS DATE)
        AND CAST(dischtime AS DATE) + CAST(horizon_days AS INTEGER)
        AND (next_admittime IS NULL OR CAST(next_admittime AS DATE) > dod),
        FALSE
    ) AS died_within_horizon,
    mature_at
FROM labels;

COMMENT ON MACRO TABLE clinicalbert_labels IS
'clinicalbert_labels(horizon_days := 30): what is the label by the rule of ClinicalBERT?
One row per admission (hadm_id).
For comparison; use readmission_labels, which has the same columns.
days_to_return: fractional, from discharge to admission.';
