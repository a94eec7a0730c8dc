-- stale_texts: which embedded texts are not the current text of a ready note?
--
-- Grain:   one row per note and text (note_id, text_hash).
WITH ready_notes AS (
    SELECT
        note_id,
        text_hash
    FROM notes
    WHERE status = 'ready'
)

SELECT DISTINCT
    e.note_id,
    e.text_hash
FROM embeddings AS e
ANTI JOIN ready_notes AS n ON e.note_id = n.note_id AND e.text_hash = n.text_hash
