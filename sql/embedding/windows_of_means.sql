-- windows_of_means($first, $last, $lowest, $highest): which vectors are these missing means taken
-- over?
--
-- Grain:   one row per window, although it may count for the means of several cutoffs.
-- Columns: row_nos (the means, counted from $first; $last is not one of them), embedding.
-- Params:  $lowest and $highest are hadm_id of these means: only that part of the table is read.
WITH notes_with_means AS (
    SELECT
        encoder_id,
        note_id,
        text_hash,
        list(row_no - $first) AS row_nos
    FROM notes_of_means
    WHERE row_no >= $first AND row_no < $last
    GROUP BY ALL
)

SELECT
    n.row_nos,
    e.embedding
FROM notes_with_means AS n
INNER JOIN embeddings AS e
    ON n.note_id = e.note_id AND n.text_hash = e.text_hash AND n.encoder_id = e.encoder_id
WHERE e.hadm_id >= $lowest AND e.hadm_id <= $highest
