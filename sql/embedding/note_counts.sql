-- note_counts($encoder_id): how many notes are there, excluded, and embedded by this encoder?
--
-- Grain:   one row.
SELECT
    count(*) AS notes,
    count(*) FILTER (WHERE status = 'excluded') AS excluded,
    count(*) FILTER (
        WHERE status = 'ready' AND (note_id, text_hash) IN (
            SELECT (e.note_id, e.text_hash) FROM embeddings AS e
            WHERE e.encoder_id = $encoder_id AND e.window_no = 0
        )
    ) AS embedded
FROM notes
