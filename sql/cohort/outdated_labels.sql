-- outdated_labels($scorer_id, $rule, $horizon_days): which labels of a scorer does its rule give
-- no more?
--
-- Grain:   one row.
-- Columns: n_immature (the horizon is not over), n_changed (all others that differ).
WITH labels AS (
    SELECT
        hadm_id,
        label,
        reason
    FROM readmission_labels(horizon_days := $horizon_days)
    WHERE $rule = 'readmission'
    UNION ALL
    SELECT
        hadm_id,
        label,
        reason
    FROM clinicalbert_labels(horizon_days := $horizon_days)
    WHERE $rule = 'clinicalbert'
)

SELECT
    count(*) FILTER (WHERE l.reason = 'horizon not yet observed') AS n_immature,
    count(*) FILTER (
        WHERE
        l.label IS DISTINCT FROM r.label
        AND l.reason IS DISTINCT FROM 'horizon not yet observed'
    ) AS n_changed
FROM scorer_admissions AS r
LEFT JOIN labels AS l ON r.hadm_id = l.hadm_id
WHERE r.scorer_id = $scorer_id;
