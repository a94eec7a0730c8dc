-- MIMIC-III's notes under the canonical names.
SELECT
    row_id AS note_id,
    subject_id,
    hadm_id,
    category,
    chartdate,
    charttime,
    storetime,
    -- A physician's flag: '1' in MIMIC-III, and whatever else says more than no.
    coalesce(CAST(iserror AS VARCHAR), '') NOT IN ('', '0') AS is_error,
    text
FROM noteevents
