-- The canonical columns of notes, from MIMIC-III.
--
-- Grain:   one row per note (note_id).
SELECT
    row_id AS note_id,
    subject_id,
    hadm_id,
    category,
    chartdate,
    charttime,
    storetime,
    -- A physician flagged the note: '1' in MIMIC-III. Any value but '0' counts.
    iserror AS is_error,
    text
FROM noteevents
