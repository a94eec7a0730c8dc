-- last_complete_sync: when did the last sync begin that read all notes of the current source?
--
-- Grain:   one row.
-- Columns: last_complete_sync (local time; NULL if there was none since the source was changed).
SELECT max(r.started_at) AS last_complete_sync
FROM runs AS r
WHERE
    r.counts ->> '$.sync' = 'complete'
    AND r.run_id > (
        SELECT coalesce(max(c.run_id), -1)
        FROM runs AS c
        WHERE c.command = 'source'
    );
