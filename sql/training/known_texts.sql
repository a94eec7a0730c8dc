-- known_texts: which notes are known at the prediction times, a text that is repeated once?
--
-- Grain:   one row per admission and text (hadm_id, note_id).
-- Params:  cutoff.
SELECT
    note_id,
    hadm_id
FROM known_notes(cutoff := $cutoff)
QUALIFY row_number() OVER (PARTITION BY hadm_id, text_hash ORDER BY available_at, note_id) = 1
