-- known_notes(cutoff := '72h'): which notes may a prediction see?
--
-- Grain:   one row per note that was known at the prediction time of its admission (note_id).
-- Columns: hadm_id, prediction_time, note_id, text_hash, available_at.
-- The one place where notes meet the clock: means, training and baselines all read from here.
CREATE OR REPLACE MACRO known_notes(cutoff := '72h') AS TABLE
SELECT
    n.hadm_id,
    p.prediction_time,
    n.note_id,
    n.text_hash,
    n.available_at
FROM notes AS n
INNER JOIN prediction_times(cutoff := cutoff) AS p ON n.hadm_id = p.hadm_id
WHERE n.status = 'ready' AND n.available_at <= p.prediction_time;
