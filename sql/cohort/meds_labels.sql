-- meds_labels($labels, $cutoff): what are the labels, as MEDS stores them?
--
-- Grain:   one row per admission with a mature label that is predicted at the cutoff.
-- Columns: subject_id, prediction_time, boolean_value (the label schema of MEDS 0.4).
SELECT
    labels.subject_id,
    p.prediction_time,
    labels.label AS boolean_value
FROM query($labels) AS labels
INNER JOIN prediction_times(cutoff := $cutoff) AS p ON labels.hadm_id = p.hadm_id
WHERE labels.label IS NOT NULL AND labels.mature
ORDER BY labels.subject_id, p.prediction_time;
