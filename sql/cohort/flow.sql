-- flow($rule, $horizon_days): how many admissions have each label, and for which reason?
--
-- Grain:   one row per label and reason, the most frequent first.
-- Columns: label, reason ("continued by ..." is one reason, whatever the admission), n_admissions,
--          n_died (after discharge, within the horizon, with no return before).
WITH labels AS (
    SELECT
        label,
        reason,
        died_within_horizon
    FROM readmission_labels(horizon_days := $horizon_days)
    WHERE $rule = 'readmission'
    UNION ALL
    SELECT
        label,
        reason,
        died_within_horizon
    FROM clinicalbert_labels(horizon_days := $horizon_days)
    WHERE $rule = 'clinicalbert'
)

SELECT
    label,
    regexp_replace(reason, '^continued by \d+$', 'continued by the next stay') AS reason,
    count(*) AS n_admissions,
    count(*) FILTER (WHERE died_within_horizon) AS n_died
FROM labels
GROUP BY ALL
ORDER BY n_admissions DESC, reason ASC;
