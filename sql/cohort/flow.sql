-- flow($labels, $cutoff, $encoder): which admissions have a label, and which are predicted?
--
-- Grain:   one row per combination of its columns, the most frequent first.
-- Columns: outcome ('positive' or 'negative', of mature labels; 'immature', of a possible
--          index whose horizon is not over; 'excluded'), reason ("continued by ..." is one reason,
--          whatever the admission), positive_so_far (of immature ones), is_predicted (at the
--          cutoff), mature (the horizon is over), is_scored (is_predicted and has an embedding by
--          the encoder), returned_early (within 48 hours of the episode's discharge, which is
--          before the discharge prediction), n_admissions, n_died (after discharge, within the
--          horizon, with no return before).
WITH labels AS (
    SELECT *
    FROM query($labels)
),

outcomes AS (
    SELECT
        *,
        CASE
            WHEN
                label IS NULL
                AND coalesce(reason NOT IN ('horizon not yet observed', 'still in hospital'), TRUE)
                THEN 'excluded'
            WHEN NOT mature OR label IS NULL THEN 'immature'
            WHEN label THEN 'positive'
            ELSE 'negative'
        END AS outcome
    FROM labels
),

predicted AS (
    SELECT hadm_id
    FROM prediction_times(cutoff := $cutoff)
    UNION
    -- The store knows the prediction times that a task gives only when it has embedded the notes.
    SELECT l.hadm_id
    FROM labels AS l
    CROSS JOIN settings AS s
    WHERE
        $cutoff LIKE 'task:%'
        AND l.prediction_time <= coalesce(s.observed_until, l.prediction_time)
),

predictions AS (
    SELECT
        p.hadm_id,
        m.hadm_id IS NOT NULL AS is_scored
    FROM predicted AS p
    LEFT JOIN admission_embeddings AS m
        ON p.hadm_id = m.hadm_id AND m.encoder_id = $encoder AND m.cutoff = $cutoff
)

SELECT
    o.outcome,
    regexp_replace(o.reason, '^continued by -?\d+$', 'continued by the next stay') AS reason,
    o.outcome = 'immature' AND coalesce(o.label, FALSE) AS positive_so_far,
    p.hadm_id IS NOT NULL AS is_predicted,
    o.mature,
    coalesce(p.is_scored, FALSE) AS is_scored,
    coalesce(
        o.outcome = 'positive'
        AND o.event_at <= coalesce(e.episode_discharge, e.discharge) + INTERVAL 48 HOURS,
        FALSE
    ) AS returned_early,
    count(*) AS n_admissions,
    count(*) FILTER (WHERE o.died_within_horizon) AS n_died
FROM outcomes AS o
INNER JOIN episodes AS e ON o.hadm_id = e.hadm_id
LEFT JOIN predictions AS p ON o.hadm_id = p.hadm_id
GROUP BY ALL
ORDER BY n_admissions DESC, reason ASC;
