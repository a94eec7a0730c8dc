-- known_windows($encoder, $cutoff): what are the vectors of the windows that a prediction may use?
--
-- Grain:   one row per window of a note known at the prediction time (note_id, window_no).
-- Columns: those of embeddings for a reader, and patient and split.
SELECT
    e.hadm_id,
    a.subject_id,
    patient_split(a.subject_id) AS split,
    e.note_id,
    e.window_no,
    e.n_tokens,
    e.available_at,
    e.embedding
FROM known_notes(cutoff := $cutoff) AS k
INNER JOIN embeddings AS e ON k.note_id = e.note_id AND k.text_hash = e.text_hash
INNER JOIN admissions AS a ON e.hadm_id = a.hadm_id
WHERE e.encoder_id = $encoder
ORDER BY e.hadm_id, e.note_id, e.window_no
