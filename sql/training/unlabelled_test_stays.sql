-- unlabelled_test_stays: which stays of test patients are predicted but never have a label?
--
-- Grain:   one row per admission with a known note whose horizon is over, ordered by hadm_id.
-- Columns: hadm_id, subject_id, reason (why it has no label), embedding.
-- Params:  encoder, cutoff, labels (a SELECT), splits, test_from (as in labelled_admissions).
SELECT
    m.hadm_id,
    l.subject_id,
    regexp_replace(l.reason, '^continued by -?\d+$', 'continued by the next stay') AS reason,
    m.embedding
FROM query($labels) AS l
INNER JOIN admission_embeddings AS m ON l.hadm_id = m.hadm_id
WHERE
    (m.encoder_id, m.cutoff) = ($encoder, $cutoff)
    AND l.label IS NULL
    AND l.mature
    AND patient_split(l.subject_id) = 'test'
    AND list_contains($splits, 'test')
    AND coalesce(m.prediction_time >= CAST($test_from AS TIMESTAMP), TRUE)
ORDER BY m.hadm_id
