-- labels_from_file($task): which labels of a file are kept for a task?
--
-- Input:   file_labels, whose hadm_id is known.
SELECT
    CAST($task AS VARCHAR) AS task,
    f.hadm_id,
    f.label,
    CASE WHEN f.label IS NULL THEN coalesce(f.reason, 'no label in the file') ELSE f.reason END
        AS reason,
    coalesce(f.known_at, s.observed_until) AS known_at,
    f.prediction_time
FROM file_labels AS f
SEMI JOIN admissions AS a ON f.hadm_id = a.hadm_id
CROSS JOIN settings AS s
ORDER BY f.row_no
