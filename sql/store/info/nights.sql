-- info/nights: what did the last seven nightly runs do?
--
-- Grain:   one row per nightly run, the newest first.
-- Columns: sync is complete, or the first day whose notes were read; the rest are counts.
SELECT
    run_id AS run,
    CAST(started_at AS DATE) AS night,
    counts ->> '$.sync' AS sync,
    CAST(counts ->> '$.new' AS INTEGER) AS new,
    CAST(counts ->> '$.changed' AS INTEGER) AS changed,
    CAST(counts ->> '$.withdrawn' AS INTEGER) AS withdrawn,
    CAST(counts ->> '$.excluded' AS INTEGER) AS excluded,
    CAST(counts ->> '$.windows' AS INTEGER) AS windows,
    CAST(counts ->> '$.scored' AS INTEGER) AS scored,
    len(CAST(counts -> '$.unusual' AS JSON[])) AS unusual
FROM runs
WHERE command = 'nightly'
ORDER BY run_id DESC
LIMIT 7;
