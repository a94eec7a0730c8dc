-- admissions($encoder, $cutoff): what are the vectors of admissions by an encoder?
--
-- Grain:   one row per admission with a known note (hadm_id), and cutoff where $cutoff is NULL.
-- Columns: those of admission_embeddings for a reader, and patient and split.
SELECT
    m.hadm_id,
    a.subject_id,
    patient_split(a.subject_id) AS split,
    m.cutoff,
    m.prediction_time,
    m.n_notes,
    m.n_windows,
    m.embedding
FROM admission_embeddings AS m
INNER JOIN admissions AS a ON m.hadm_id = a.hadm_id
WHERE m.encoder_id = $encoder AND ($cutoff IS NULL OR m.cutoff = $cutoff)
ORDER BY m.hadm_id, m.cutoff
