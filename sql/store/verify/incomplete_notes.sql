-- verify/incomplete_notes: how many embedded notes lack some of their windows?
--
-- Grain:   one row.
WITH embedded_notes AS (
    SELECT
        count(DISTINCT window_no) AS n_windows,
        min(window_no) AS first_window,
        max(window_no) AS last_window
    FROM embeddings
    GROUP BY encoder_id, note_id, text_hash
)

SELECT count(*)
FROM embedded_notes
WHERE first_window <> 0 OR n_windows <> last_window + 1;
