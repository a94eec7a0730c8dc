-- info/encoders: which encoders does the store hold, and how many vectors of each?
--
-- Grain:   one row per encoder.
SELECT
    encoder_id AS encoder,
    dim,
    precision,
    active,
    count(e.note_id) AS windows,
    count(DISTINCT e.note_id) AS notes
FROM encoders
LEFT JOIN embeddings AS e USING (encoder_id)
GROUP BY ALL
ORDER BY encoder;
