-- recent_notes: how far did the notes of the last nights lie from those of the training period?
--
-- Grain:   one row per night, patient and note category.
-- Columns: run_id, night (0 is the last one with notes, 1 the one before), subject_id, category,
--          n_notes, shift (mean, NULL for a category that the reference lacks).
-- Params:  scorer (scorer_id), nights.
WITH numbered AS (
    SELECT
        run_id,
        dense_rank() OVER (ORDER BY run_id DESC) - 1 AS night,
        subject_id,
        category,
        n_notes,
        shift
    FROM nightly_log_odds
    WHERE scorer_id = $scorer
)

SELECT
    run_id,
    night,
    subject_id,
    category,
    CAST(sum(n_notes) AS BIGINT) AS n_notes,
    sum(n_notes * shift) / sum(n_notes) AS shift
FROM numbered
WHERE night < $nights
GROUP BY run_id, night, subject_id, category
ORDER BY night, subject_id, category
