-- known_at_prediction($scorer_id, $labels): were outcomes known when they were predicted?
--
-- Grain:   one row.
-- Columns: n_known (labels known before the prediction), n_unchecked (labels of which the task does
--          not say when they were known), n_over (labelled stays that were over),
--          days_positive and days_negative (medians from the prediction to the time when the label
--          is known, in a live hospital).
SELECT
    count(*) FILTER (WHERE least(l.known_at, l.event_at) < m.prediction_time) AS n_known,
    count(*) FILTER (WHERE l.known_at IS NULL) AS n_unchecked,
    count(*) FILTER (WHERE least(a.dischtime, a.deathtime) < m.prediction_time) AS n_over,
    median(epoch(l.known_at - m.prediction_time) / 86400) FILTER (WHERE s.live AND l.label)
        AS days_positive,
    median(epoch(l.known_at - m.prediction_time) / 86400) FILTER (WHERE s.live AND NOT l.label)
        AS days_negative
FROM scorer_admissions AS r
INNER JOIN scorers AS c ON r.scorer_id = c.scorer_id
INNER JOIN admission_embeddings AS m
    ON r.hadm_id = m.hadm_id AND c.encoder_id = m.encoder_id AND c.cutoff = m.cutoff
INNER JOIN admissions AS a ON r.hadm_id = a.hadm_id
INNER JOIN query($labels) AS l ON r.hadm_id = l.hadm_id
CROSS JOIN settings AS s
WHERE r.scorer_id = $scorer_id AND r.label IS NOT NULL;
