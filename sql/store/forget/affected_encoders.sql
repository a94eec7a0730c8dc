-- forget/affected_encoders: which encoders may have been fine-tuned on these patients?
--
-- Input:   patients (subject_id).
-- Grain:   one row per encoder.
-- Fine-tuning on a store excludes its test patients; fine-tuning on other data may use anybody.
SELECT encoder_id
FROM encoders
WHERE
    (manifest -> '$.checkpoint.finetune') IS NOT NULL
    AND (
        coalesce(manifest ->> '$.checkpoint.finetune.patients', '') NOT LIKE 'patient_split%'
        OR EXISTS (FROM patients WHERE patient_split(subject_id) <> 'test')
    )
ORDER BY encoder_id;
