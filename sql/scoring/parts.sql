-- parts($scorer, $bytes): into how many parts are stays divided, so that the vectors of the windows
-- of one are few enough?
--
-- Grain:   one row.
-- A maximum over windows needs these vectors; all other scores need none.
SELECT
    CASE
        WHEN s.aggregate = 'max'
            THEN greatest(1, CAST(ceil(count(w.note_id) * n.dim * 4 / $bytes) AS INTEGER))
        ELSE 1
    END AS parts
FROM scorers AS s
INNER JOIN encoders AS n ON s.encoder_id = n.encoder_id
LEFT JOIN embeddings AS w ON s.encoder_id = w.encoder_id
WHERE s.scorer_id = $scorer
GROUP BY s.aggregate, n.dim
