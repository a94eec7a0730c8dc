-- notes_to_embed($categories): which pending notes are neither staged nor filtered out?
--
-- Grain:   one row per note (note_id), in the order of pending_notes.
-- Columns: note_id, text_hash.
-- An empty list of categories selects all of them.
WITH pending AS (
    SELECT
        *,
        row_number() OVER () AS position_no
    FROM pending_notes
)

SELECT
    p.note_id,
    p.text_hash
FROM pending AS p
ANTI JOIN staged_notes AS s ON p.note_id = s.note_id AND p.text_hash = s.text_hash
WHERE len($categories) = 0 OR list_contains($categories, p.category)
ORDER BY p.position_no
