-- info/encoders: which encoders does the store hold, and how many vectors of each?
--
-- Grain:   one row per encoder.
SELECT
    m.encoder_id AS encoder,
    m.dim,
    m.precision,
    m.active,
    count(e.note_id) AS windows,
    count(DISTINCT e.note_id) AS notes
FROM encoders AS m
LEFT JOIN embeddings AS e ON m.encoder_id = e.encoder_id
GROUP BY ALL
ORDER BY encoder;
