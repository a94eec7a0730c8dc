-- similar_with_outcomes($hadm_id, $vector, $n, $cutoff, $labels, $returns): what happened after
-- the n admissions of other patients that are most similar to an admission, or to a vector?
--
-- Grain:   one row per similar admission (hadm_id), the most similar first.
-- Columns: as the labels of the task; days_to_return (of a positive, where that is a readmission).
SELECT
    s.hadm_id,
    s.subject_id,
    s.similarity,
    l.label,
    l.reason,
    l.mature,
    CASE WHEN l.label AND $returns THEN r.days_to_return END AS days_to_return
FROM similar_admissions($hadm_id, n := $n, cutoff := $cutoff, vector := $vector) AS s
LEFT JOIN query($labels) AS l ON s.hadm_id = l.hadm_id
LEFT JOIN readmission_labels() AS r ON s.hadm_id = r.hadm_id
ORDER BY s.similarity DESC, s.hadm_id ASC
