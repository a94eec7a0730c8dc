-- scores_with_outcomes($scorer, $labels): what happened after the first score of each
-- admission?
--
-- Grain:   one row per admission that the scorer has scored (hadm_id).
-- Columns: subject_id, probability (of the first score), period (the month of a live hospital's
--          prediction; of a research extract, whose dates are shifted by patient, all),
--          predicted_at (of a live hospital, else NULL), fitted_on (whether the scorer was fitted
--          or selected on it, or would have been if it had a label), label, reason (why there is
--          no label), mature (its horizon is over).
WITH first_scores AS (
    SELECT
        hadm_id,
        arg_min(probability, run_id) AS probability,
        min(prediction_time) AS prediction_time
    FROM scores
    WHERE scorer_id = $scorer
    GROUP BY hadm_id
),

training_periods AS (
    SELECT max(a.dischtime) AS last_discharge
    FROM scorer_admissions AS r
    INNER JOIN admissions AS a ON r.hadm_id = a.hadm_id
    WHERE r.scorer_id = $scorer AND r.label IS NOT NULL
)

SELECT
    a.subject_id,
    f.probability,
    CASE WHEN s.live THEN strftime(f.prediction_time, '%Y-%m') ELSE 'all' END AS period,
    CASE WHEN s.live THEN f.prediction_time END AS predicted_at,
    coalesce(r.split IN ('train', 'valid'), FALSE)
    -- Otherwise stays without a label would be of all patients, those with one of test patients.
    OR (
        l.label IS NULL
        AND l.mature
        AND patient_split(a.subject_id) <> 'test'
        AND (NOT s.live OR coalesce(a.dischtime <= t.last_discharge, FALSE))
    ) AS fitted_on,
    l.label,
    CASE
        WHEN l.label IS NULL
            THEN
                coalesce(
                    regexp_replace(
                        l.reason, '^continued by -?\d+$', 'continued by the next stay'
                    ),
                    'no reason given'
                )
    END AS reason,
    l.mature
FROM first_scores AS f
CROSS JOIN settings AS s
CROSS JOIN training_periods AS t
INNER JOIN admissions AS a ON f.hadm_id = a.hadm_id
INNER JOIN query($labels) AS l ON f.hadm_id = l.hadm_id
LEFT JOIN scorer_admissions AS r ON f.hadm_id = r.hadm_id AND r.scorer_id = $scorer
ORDER BY period, a.subject_id, f.hadm_id
