-- similar_with_outcomes($hadm_id, $n, $cutoff, $labels, $returns): what happened after the n
-- most similar admissions of other patients?
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
FROM similar_admissions($hadm_id, n := $n, cutoff := $cutoff) AS s
LEFT JOIN query($labels) AS l ON s.hadm_id = l.hadm_id
LEFT JOIN readmission_labels() AS r ON s.hadm_id = r.hadm_id
ORDER BY s.similarity DESC, s.hadm_id ASC
