-- monitored_nights: what did each night of a scorer measure?
--
-- Grain:   one row per nightly run of the scorer that committed something, by run_id.
-- Columns: run_id, night (its date), is_forced, monitoring (JSON).
-- Params:  scorer (scorer_id).
SELECT
    run_id,
    CAST(started_at AS DATE) AS night,
    coalesce(len(CAST(counts -> '$.unusual' AS VARCHAR[])), 0) > 0 AS is_forced,
    counts -> '$.monitoring' AS monitoring
FROM runs
WHERE command = 'nightly' AND (counts ->> '$.scorer') = $scorer
ORDER BY run_id
