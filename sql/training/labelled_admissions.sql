-- labelled_admissions: which admissions have a mature label and a known note?
--
-- Grain:   one row per admission, ordered by hadm_id.
-- Columns: hadm_id, subject_id, split, label, embedding, as in training_set.
-- Params:  encoder, cutoff, labels (a SELECT), splits (whose patients are among them),
--          test_from (NULL, or the time from which test stays are predicted, and before which all
--          other labels were known).
SELECT
    m.hadm_id,
    l.subject_id,
    patient_split(l.subject_id) AS split,
    l.label,
    m.embedding
FROM query($labels) AS l
INNER JOIN admission_embeddings AS m ON l.hadm_id = m.hadm_id
WHERE
    (m.encoder_id, m.cutoff) = ($encoder, $cutoff)
    AND l.label IS NOT NULL
    AND l.mature
    AND list_contains($splits, patient_split(l.subject_id))
    AND CASE
        WHEN patient_split(l.subject_id) = 'test'
            THEN coalesce(m.prediction_time >= CAST($test_from AS TIMESTAMP), TRUE)
        ELSE coalesce(l.known_at < CAST($test_from AS TIMESTAMP), $test_from IS NULL)
    END
ORDER BY m.hadm_id
