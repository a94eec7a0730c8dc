-- meds_labels($rule, $cutoff, $horizon_days): what are the labels, as MEDS stores them?
--
-- Grain:   one row per admission with a mature label that is predicted at the cutoff.
-- Columns: subject_id, prediction_time, boolean_value (the label schema of MEDS 0.4).
WITH labels AS (
    SELECT
        hadm_id,
        subject_id,
        label,
        mature
    FROM readmission_labels(horizon_days := $horizon_days)
    WHERE $rule = 'readmission'
    UNION ALL
    SELECT
        hadm_id,
        subject_id,
        label,
        mature
    FROM clinicalbert_labels(horizon_days := $horizon_days)
    WHERE $rule = 'clinicalbert'
)

SELECT
    labels.subject_id,
    p.prediction_time,
    labels.label AS boolean_value
FROM labels
INNER JOIN prediction_times(cutoff := $cutoff) AS p ON labels.hadm_id = p.hadm_id
WHERE labels.label IS NOT NULL AND labels.mature
ORDER BY labels.subject_id, p.prediction_time;
