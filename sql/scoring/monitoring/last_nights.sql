-- last_nights: what did --force accept on the last nights of a scorer?
--
-- Grain:   one row per nightly run of the scorer, the newest first, 30 at most.
-- Columns: run_id, is_forced (something stopped it, and --force committed it), accepted (checks).
-- Params:  scorer (scorer_id).
SELECT
    run_id,
    coalesce(len(CAST(counts -> '$.unusual' AS VARCHAR[])), 0) > 0 AS is_forced,
    coalesce(CAST(counts -> '$.accepted' AS VARCHAR[]), []) AS accepted
FROM runs
WHERE command = 'nightly' AND (counts ->> '$.scorer') = $scorer
ORDER BY run_id DESC
LIMIT 30
