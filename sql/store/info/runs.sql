-- info/runs: what were the last five runs?
--
-- Grain:   one row per run, the newest first.
SELECT
    run_id AS run,
    command,
    finished_at,
    counts
FROM runs
ORDER BY run_id DESC
LIMIT 5;
