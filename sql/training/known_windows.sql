-- known_windows: which windows belong to the notes that were known at the prediction times?
--
-- Grain:   one row per window of an admission, ordered by admission, note and window.
-- Columns: hadm_id, embedding.
-- Params:  encoder, cutoff.
-- Reads the registered table training_admissions (hadm_id).
SELECT
    k.hadm_id,
    e.embedding
FROM known_notes(cutoff := $cutoff) AS k
SEMI JOIN training_admissions USING (hadm_id)
INNER JOIN embeddings AS e ON k.note_id = e.note_id AND k.text_hash = e.text_hash
WHERE e.encoder_id = $encoder
ORDER BY k.hadm_id, k.note_id, e.window_no
