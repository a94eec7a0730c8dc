-- unembedded_notes($encoder_id): which ready notes have no vector by this encoder?
--
-- Grain:   one row per note (note_id).
CREATE OR REPLACE TEMP TABLE unembedded_notes AS
SELECT
    note_id,
    text_hash,
    hadm_id,
    available_at,
    category
FROM notes
WHERE
    status = 'ready'
    AND note_id NOT IN (SELECT e.note_id FROM embeddings AS e WHERE e.encoder_id = $encoder_id);
