-- known_notes(cutoff := '72h'): which notes may a prediction use?
--
-- Grain:   one row per note known at the prediction time of its admission (note_id).
-- The only place that compares notes with the prediction time: means, training and baselines use
-- it.
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

COMMENT ON MACRO TABLE known_notes IS
'known_notes(cutoff := ''72h''): which notes may a prediction use?
One row per note known at the prediction time of its admission (note_id).';
