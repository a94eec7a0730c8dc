-- labelled_notes(split, cutoff, labels): which notes does fine-tuning read, with what label?
--
-- Grain:   one row per note known at the prediction time of an admission with a mature label
--          (note_id).
-- Columns: note_id, text_hash (MD5 of the text at the last sync), hadm_id, label (0 or 1).
-- Params:  split ('train', 'valid' or 'test', of the patient), cutoff, labels (a SELECT).
SELECT
    notes.note_id,
    notes.text_hash,
    notes.hadm_id,
    CAST(labels.label AS INTEGER) AS label
FROM known_notes(cutoff := $cutoff) AS notes
INNER JOIN query($labels) AS labels ON notes.hadm_id = labels.hadm_id
WHERE
    labels.label IS NOT NULL
    AND labels.mature
    AND patient_split(labels.subject_id) = $split
