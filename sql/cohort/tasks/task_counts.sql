-- task_counts($labels): how many labels does a task give, and which admissions are not valid?
--
-- Grain:   one row.
-- Columns: labels, positive, negative, repeated_hadm_id (an admission that comes twice),
--          early_hadm_id (one whose label is known before its own prediction time),
--          infinite_hadm_id (one with an infinite time), predictions, never_mature (labels without
--          known_at in a live hospital), reasons.
WITH labels AS (
    SELECT *
    FROM query($labels)
),

repeated AS (
    SELECT hadm_id
    FROM labels
    GROUP BY hadm_id
    HAVING count(*) > 1
)

SELECT
    count(*) AS labels,
    count(*) FILTER (WHERE label) AS positive,
    count(*) FILTER (WHERE NOT label) AS negative,
    (SELECT min(r.hadm_id) FROM repeated AS r) AS repeated_hadm_id,
    min(hadm_id) FILTER (
        WHERE label IS NOT NULL AND least(known_at, event_at) < prediction_time
    ) AS early_hadm_id,
    min(hadm_id) FILTER (
        WHERE NOT (isfinite(known_at) AND isfinite(prediction_time) AND isfinite(event_at))
    ) AS infinite_hadm_id,
    count(prediction_time) AS predictions,
    count(*) FILTER (
        WHERE label IS NOT NULL AND known_at IS NULL AND (SELECT s.live FROM settings AS s)
    ) AS never_mature,
    -- Read, so that a reason that cannot be computed is found.
    count(DISTINCT reason) AS reasons
FROM labels;
