-- known_windows: which windows belong to the notes that were known at the prediction times?
--
-- Grain:   one row per window of an admission, ordered by admission, note and window; a text that
--          several notes of an admission repeat counts once, as the note that was known first.
-- Columns: hadm_id, note_no (from 0, of an admission's notes), is_of_last_note (its text is that of
--          the note known last; of several at that time, of the last note_id), embedding.
-- Params:  encoder, cutoff.
-- Reads the registered table training_admissions (hadm_id).
WITH embedded_notes AS (
    SELECT
        k.hadm_id,
        k.note_id,
        k.text_hash,
        k.available_at,
        last_value(k.text_hash) OVER (
            PARTITION BY k.hadm_id ORDER BY k.available_at, k.note_id
            ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING
        ) AS last_text_hash
    FROM known_notes(cutoff := $cutoff) AS k
    SEMI JOIN training_admissions USING (hadm_id)
    SEMI JOIN embeddings AS e
        ON k.note_id = e.note_id AND k.text_hash = e.text_hash AND e.encoder_id = $encoder
),

counted_notes AS (
    SELECT
        n.*,
        row_number() OVER (PARTITION BY n.hadm_id ORDER BY n.note_id) - 1 AS note_no
    FROM embedded_notes AS n
    ANTI JOIN repeated_notes AS r ON n.note_id = r.note_id AND r.encoder_id = $encoder
)

SELECT
    n.hadm_id,
    n.note_no,
    n.text_hash = n.last_text_hash AS is_of_last_note,
    e.embedding
FROM counted_notes AS n
INNER JOIN embeddings AS e ON n.note_id = e.note_id AND n.text_hash = e.text_hash
WHERE e.encoder_id = $encoder
ORDER BY n.hadm_id, n.note_id, e.window_no
