-- moved_notes: which embedded notes now belong to another admission or time?
--
-- Grain:   one row per note (note_id).
-- Columns: note_id, hadm_id and available_at (as in the table notes).
WITH moved AS (
    SELECT DISTINCT e.note_id
    FROM embeddings AS e
    INNER JOIN notes AS n ON e.note_id = n.note_id AND e.text_hash = n.text_hash
    WHERE (e.hadm_id, e.available_at) <> (n.hadm_id, n.available_at)
)

SELECT
    n.note_id,
    n.hadm_id,
    n.available_at
FROM notes AS n
SEMI JOIN moved AS m ON n.note_id = m.note_id
WHERE n.status = 'ready'
