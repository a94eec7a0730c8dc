-- outdated_labels($scorer_id, $labels, $observed_until): which labels of a scorer are
-- immature, or were when it was fitted, and which does its rule give no more?
--
-- Grain:   one row.
-- Columns: n_immature (the horizon is not over, also of early returns), n_changed (others that
--          differ; an admission without a label is one only if the rule now gives it a label).
WITH labels AS (
    SELECT
        hadm_id,
        label,
        mature,
        known_at > CAST($observed_until AS TIMESTAMP) AS was_immature
    FROM query($labels)
)

SELECT
    count(*) FILTER (
        WHERE r.label IS NOT NULL AND (NOT l.mature OR coalesce(l.was_immature, FALSE))
    ) AS n_immature,
    count(*) FILTER (
        WHERE l.label IS DISTINCT FROM r.label AND coalesce(l.mature, TRUE)
    ) AS n_changed
FROM scorer_admissions AS r
LEFT JOIN labels AS l ON r.hadm_id = l.hadm_id
WHERE r.scorer_id = $scorer_id;
