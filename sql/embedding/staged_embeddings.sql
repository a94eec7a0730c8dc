-- staged_embeddings($encoder_id): which rows of a shard go into the table embeddings?
--
-- Grain:   one row per note and window (note_id, window_no).
-- Columns: row_no in the shard, category, then those of embeddings without the vector.
-- The join excludes notes that were edited or withdrawn after they were staged.
SELECT
    s.row_no,
    n.category,
    CAST($encoder_id AS VARCHAR) AS encoder_id,
    n.hadm_id,
    s.note_id,
    s.window_no,
    s.n_tokens,
    n.available_at,
    s.text_hash
FROM shard AS s
INNER JOIN unembedded_notes AS n ON s.note_id = n.note_id AND s.text_hash = n.text_hash
ORDER BY n.hadm_id, s.note_id, s.window_no
