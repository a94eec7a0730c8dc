-- similar_with_outcomes($hadm_id, $n, $cutoff, $horizon_days): what happened after the n most
-- similar admissions of other patients?
--
-- Grain:   one row per similar admission (hadm_id), the most similar first.
SELECT
    s.hadm_id,
    s.subject_id,
    s.similarity,
    l.label,
    l.reason,
    l.mature,
    l.days_to_return
FROM similar_admissions($hadm_id, n := $n, cutoff := $cutoff) AS s
LEFT JOIN readmission_labels(horizon_days := $horizon_days) AS l ON s.hadm_id = l.hadm_id
ORDER BY s.similarity DESC, s.hadm_id ASC
