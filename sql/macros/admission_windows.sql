-- admission_windows(cutoff := '72h'): which windows is the mean of an admission taken over?
--
-- Grain:   one row per encoder and admission with a known, embedded note (encoder_id, hadm_id).
CREATE OR REPLACE MACRO admission_windows(cutoff := '72h') AS TABLE
WITH params AS (
    SELECT canonical_cutoff(cutoff) AS cutoff_name
)

SELECT
    e.encoder_id,
    k.hadm_id,
    params.cutoff_name AS cutoff,
    k.prediction_time,
    CAST(count(*) FILTER (WHERE e.window_no = 0) AS INTEGER) AS n_notes,
    CAST(count(*) AS INTEGER) AS n_windows,
    -- Hashed twice: a hash of several columns is linear in the last, and would cancel out in pairs.
    bit_xor(hash(hash(e.note_id, e.window_no, e.text_hash)))
        FILTER (WHERE r.note_id IS NULL) AS windows_hash
FROM known_notes(cutoff := cutoff) AS k
CROSS JOIN params
INNER JOIN embeddings AS e ON k.note_id = e.note_id AND k.text_hash = e.text_hash
LEFT JOIN repeated_notes AS r ON e.encoder_id = r.encoder_id AND e.note_id = r.note_id
GROUP BY e.encoder_id, k.hadm_id, params.cutoff_name, k.prediction_time;

COMMENT ON MACRO TABLE admission_windows IS
'admission_windows(cutoff := ''72h''): which windows is the mean of an admission taken over?
One row per encoder and admission with a known, embedded note (encoder_id, hadm_id).
n_notes, n_windows: repeats of a text among them, which the mean counts once.
windows_hash: changes with the windows that it counts and their texts.';
