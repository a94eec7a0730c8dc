-- The canonical columns of notes, from the discharge summaries and radiology reports of
-- MIMIC-IV-Note.
--
-- Grain:   one row per note (note_id).
SELECT
    note_id,
    subject_id,
    hadm_id,
    'Discharge summary' AS category,
    -- In spite of its name, charttime is a date at 00:00; the summary was written later that day.
    charttime AS chartdate,
    CASE WHEN 1 = 0 THEN charttime END AS charttime,
    storetime,
    0 AS is_error,
    text
FROM discharge
UNION ALL
SELECT
    note_id,
    subject_id,
    hadm_id,
    'Radiology' AS category,
    charttime AS chartdate,
    charttime,
    storetime,
    0 AS is_error,
    text
FROM radiology
