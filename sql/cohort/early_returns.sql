-- early_returns($horizon_days): how many returns come before the prediction at discharge + 48 h?
--
-- Grain:   one row.
-- Columns: n_early (no prediction is made for them), n_returns (of mature labels).
SELECT
    count(*) FILTER (
        WHERE
        p.hadm_id IS NULL
        AND e.next_admittime <= e.episode_discharge + INTERVAL 48 HOURS
    ) AS n_early,
    count(*) AS n_returns
FROM readmission_labels(horizon_days := $horizon_days) AS l
INNER JOIN episodes AS e ON l.hadm_id = e.hadm_id
LEFT JOIN prediction_times(cutoff := 'discharge') AS p ON l.hadm_id = p.hadm_id
WHERE l.label AND l.mature;
