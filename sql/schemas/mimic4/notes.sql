-- MIMIC-IV-Note's discharge summaries and radiology reports under the canonical names.
SELECT
    note_id,
    subject_id,
    hadm_id,
    'Discharge summary' AS category,
    -- A date at 00:00, whatever its name says: the summary was written later that day.
    charttime AS chartdate,
    CASE WHEN FALSE THEN charttime END AS charttime,
    storetime,
    FALSE AS is_error,
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
    FALSE AS is_error,
    text
FROM radiology
