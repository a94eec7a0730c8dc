-- windows($encoder): what are the vectors of all windows by an encoder?
--
-- Grain:   one row per window of a note (note_id, window_no).
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
FROM embeddings AS e
INNER JOIN admissions AS a ON e.hadm_id = a.hadm_id
WHERE e.encoder_id = $encoder
ORDER BY e.hadm_id, e.note_id, e.window_no
