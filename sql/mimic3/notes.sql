-- MIMIC-III's notes under the canonical names.
SELECT
    row_id AS note_id,
    subject_id,
    hadm_id,
    category,
    chartdate,
    charttime,
    storetime,
    CAST(iserror AS VARCHAR) = '1' AS is_error,
    text
FROM noteevents
