-- notes_of_night: how far do the notes of each stay lie from those of the training period?
--
-- Grain:   one row per stay and note category of the relation night_notes (as notes_in_log_odds).
-- Columns: those of nightly_log_odds.
-- Params:  run (run_id), scorer (scorer_id).
SELECT
    CAST($run AS INTEGER) AS run_id,
    CAST($scorer AS VARCHAR) AS scorer_id,
    n.hadm_id,
    n.subject_id,
    n.category,
    count(*) AS n_notes,
    avg((greatest(r.low, least(r.high, n.log_odds)) - r.mean) / r.spread ORDER BY n.log_odds)
        AS shift
FROM night_notes AS n
LEFT JOIN reference_log_odds AS r ON r.scorer_id = $scorer AND n.category = r.category
GROUP BY n.hadm_id, n.subject_id, n.category
ORDER BY n.hadm_id, n.category
