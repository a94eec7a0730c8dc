-- known_outcomes($labels, $cutoff): how many labels are known before their prediction?
SELECT count(*)
FROM query($labels) AS l
INNER JOIN prediction_times(cutoff := $cutoff) AS p ON l.hadm_id = p.hadm_id
WHERE l.label IS NOT NULL AND least(l.known_at, l.event_at) < p.prediction_time;
