-- utilisation($cutoff): how often, how recently and for how long was the patient in hospital?
--
-- Grain:   one row per admission (hadm_id).
-- Columns: admissions_before (that began in the 12 months before this one), days_since_discharge
--          (NULL without an earlier stay), days_so_far (of this stay, at the prediction time).
-- An admission is known when it begins, a discharge when it has happened: what a stay has not yet
-- reached at the prediction time is not used.
WITH predicted AS (
    SELECT
        a.hadm_id,
        a.subject_id,
        a.admittime,
        p.prediction_time,
        CASE WHEN a.dischtime <= p.prediction_time THEN a.dischtime END AS discharged
    FROM admissions AS a
    INNER JOIN prediction_times(cutoff := $cutoff) AS p ON a.hadm_id = p.hadm_id
)

SELECT
    s.hadm_id,
    count(e.hadm_id) FILTER (
        WHERE e.admittime >= s.admittime - INTERVAL 12 MONTH
    ) AS admissions_before,
    date_diff(
        'day', max(e.dischtime) FILTER (WHERE e.dischtime <= s.admittime), s.admittime
    ) AS days_since_discharge,
    epoch(coalesce(s.discharged, s.prediction_time) - s.admittime) / 86400 AS days_so_far
FROM predicted AS s
LEFT JOIN admissions AS e ON s.subject_id = e.subject_id AND s.admittime > e.admittime
GROUP BY s.hadm_id, s.admittime, s.discharged, s.prediction_time
