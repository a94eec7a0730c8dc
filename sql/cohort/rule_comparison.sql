-- rule_comparison($horizon_days): where do the two label rules disagree?
--
-- Grain:   one row per pair of outcomes, the most frequent first.
-- Columns: readmission, clinicalbert (the outcome by each rule: returned, did not return, or the
--          reason for which there is no label), admissions (how many).
WITH labels AS (
    SELECT
        'readmission' AS label_rule,
        hadm_id,
        label,
        reason,
        mature
    FROM readmission_labels(horizon_days := $horizon_days)
    UNION ALL
    SELECT
        'clinicalbert' AS label_rule,
        hadm_id,
        label,
        reason,
        mature
    FROM clinicalbert_labels(horizon_days := $horizon_days)
),

outcomes AS (
    SELECT
        label_rule,
        hadm_id,
        CASE
            WHEN label IS NOT NULL AND NOT mature THEN 'horizon not yet observed'
            WHEN label THEN 'returned'
            WHEN NOT label THEN 'did not return'
            ELSE regexp_replace(reason, '^continued by -?\d+$', 'continued by the next stay')
        END AS outcome,
        CASE
            WHEN label IS FALSE AND mature AND reason IS NOT NULL THEN ' (' || reason || ')'
            ELSE ''
        END
            AS detail
    FROM labels
)

SELECT
    r.outcome || r.detail AS readmission,
    c.outcome AS clinicalbert,
    count(*) AS admissions
FROM outcomes AS r
INNER JOIN outcomes AS c ON r.hadm_id = c.hadm_id
WHERE
    r.label_rule = 'readmission'
    AND c.label_rule = 'clinicalbert'
    AND r.outcome <> c.outcome
GROUP BY ALL
ORDER BY admissions DESC, readmission ASC, clinicalbert ASC;
