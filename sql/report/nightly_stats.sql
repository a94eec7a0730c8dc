-- nightly_stats: how many notes did each night embed, and what was the mean of their vectors?
--
-- Grain:   one row per category of notes and night, ordered by both.
-- Params:  encoder.
SELECT
    coalesce(nullif(category, ''), 'no category') AS category_name,
    run_id,
    n_notes,
    n_windows,
    spread,
    CAST(started_at AS DATE) AS night,
    embedding
FROM nightly_embedding_stats
INNER JOIN runs USING (run_id)
WHERE encoder_id = $encoder
ORDER BY category_name, run_id
