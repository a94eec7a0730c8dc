-- notes_of_means($cutoff): which notes is each missing mean of a cutoff taken over?
--
-- Grain:   one row per missing mean and note (row_no, note_id).
SELECT
    m.row_no,
    m.encoder_id,
    k.note_id,
    k.text_hash
FROM missing_means AS m
INNER JOIN known_notes(cutoff := $cutoff) AS k ON m.hadm_id = k.hadm_id
ANTI JOIN repeated_notes AS r ON m.encoder_id = r.encoder_id AND k.note_id = r.note_id
WHERE m.cutoff = $cutoff
