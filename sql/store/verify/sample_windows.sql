-- verify/sample_windows($cutoff): which windows is each mean of the sample made of?
--
-- Input:   sample, the rows of verify/mean_sample.
-- Grain:   one row per mean and window.
SELECT
    s.sample_no,
    e.embedding
FROM sample AS s
INNER JOIN known_notes(cutoff := $cutoff) AS k ON s.hadm_id = k.hadm_id
INNER JOIN embeddings AS e
    ON
        k.note_id = e.note_id
        AND k.text_hash = e.text_hash
        AND s.encoder_id = e.encoder_id
ANTI JOIN repeated_notes AS r ON s.encoder_id = r.encoder_id AND k.note_id = r.note_id;
