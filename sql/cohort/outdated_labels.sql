-- outdated_labels($scorer_id, $rule, $horizon_days): which labels of a scorer are immature, and
-- which does its rule give no more?
--
-- Grain:   one row.
-- Columns: n_immature (the horizon is not over, also of early returns), n_changed (others that
--          differ; an admission without a label is one only if the rule now gives it a label).
WITH labels AS (
    SELECT
        hadm_id,
        label,
        mature
    FROM readmission_labels(horizon_days := $horizon_days)
    WHERE $rule = 'readmission'
    UNION ALL
    SELECT
        hadm_id,
        label,
        mature
    FROM clinicalbert_labels(horizon_days := $horizon_days)
    WHERE $rule = 'clinicalbert'
)

SELECT
    count(*) FILTER (WHERE r.label IS NOT NULL AND NOT l.mature) AS n_immature,
    count(*) FILTER (
        WHERE l.label IS DISTINCT FROM r.label AND coalesce(l.mature, TRUE)
    ) AS n_changed
FROM scorer_admissions AS r
LEFT JOIN labels AS l ON r.hadm_id = l.hadm_id
WHERE r.scorer_id = $scorer_id;
