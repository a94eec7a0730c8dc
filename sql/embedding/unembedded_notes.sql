-- unembedded_notes($encoder_id): which ready notes have no vector of their text by this encoder?
--
-- Grain:   one row per note (note_id).
SELECT
    n.note_id,
    n.text_hash,
    n.hadm_id,
    n.available_at,
    n.category
FROM notes AS n
ANTI JOIN embeddings AS e
    ON n.note_id = e.note_id AND n.text_hash = e.text_hash AND e.encoder_id = $encoder_id
    AND e.window_no = 0
WHERE n.status = 'ready'
