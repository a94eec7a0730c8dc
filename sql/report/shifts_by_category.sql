-- shifts_by_category: how far did the notes of each night lie from those of the training period?
--
-- Grain:   one row per category of notes and night, and one per night of all notes together.
-- Columns: category (all notes: 'all notes'), run_id, n_notes, shift (in spreads).
-- Params:  scorer (scorer_id).
WITH by_category AS (
    SELECT
        coalesce(nullif(category, ''), 'no category') AS category,
        run_id,
        sum(n_notes) AS n_notes,
        sum(n_notes * shift) AS total
    FROM nightly_log_odds
    WHERE scorer_id = $scorer AND shift IS NOT NULL
    GROUP BY category, run_id
),

with_all AS (
    SELECT * FROM by_category
    UNION ALL
    SELECT
        'all notes' AS category,
        run_id,
        sum(n_notes) AS n_notes,
        sum(total) AS total
    FROM by_category
    GROUP BY run_id
)

SELECT
    category,
    run_id,
    CAST(n_notes AS BIGINT) AS n_notes,
    total / n_notes AS shift
FROM with_all
ORDER BY category, run_id
