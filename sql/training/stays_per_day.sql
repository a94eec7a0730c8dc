-- stays_per_day: how many stays does a live hospital predict on how many days of its last year?
--
-- Grain:   one row: stays (0 for a research extract, whose dates are shifted), days.
-- Params:  cutoff.
SELECT
    count(*) AS stays,
    date_diff('day', min(p.prediction_time), max(p.prediction_time)) + 1 AS days
FROM prediction_times(cutoff := $cutoff) AS p
CROSS JOIN settings AS s
WHERE
    s.live
    AND p.prediction_time BETWEEN s.observed_until - INTERVAL 1 YEAR AND s.observed_until
