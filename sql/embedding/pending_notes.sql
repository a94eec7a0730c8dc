-- pending_notes($encoder_id): which ready notes have no vector of their current text?
--
-- Grain:   one row per note (note_id), ordered by admission.
-- Columns: note_id, text_hash, category.
-- Reads changed_notes and deleted_notes, what the next sync will apply to the table notes; both
-- are empty if no sync is part of the run.
WITH current_notes AS (
    SELECT * FROM notes
    WHERE note_id NOT IN (
        SELECT c.note_id FROM changed_notes AS c
        UNION ALL
        SELECT d.note_id FROM deleted_notes AS d
    )
    UNION ALL
    SELECT * FROM changed_notes
),

embedded_texts AS (
    SELECT
        note_id,
        text_hash
    FROM embeddings
    WHERE encoder_id = $encoder_id AND window_no = 0
)

SELECT
    n.note_id,
    n.text_hash,
    n.category
FROM current_notes AS n
ANTI JOIN embedded_texts AS e ON n.note_id = e.note_id AND n.text_hash = e.text_hash
WHERE n.status = 'ready'
ORDER BY n.hadm_id, n.note_id
