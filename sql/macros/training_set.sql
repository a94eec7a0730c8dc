-- training_set(encoder, cutoff := '72h', horizon_days := 30): what is a scorer fitted on?
--
-- Grain:   one row per admission with a mature label and a known note (hadm_id).
CREATE OR REPLACE MACRO training_set(encoder, cutoff := '72h', horizon_days := 30) AS TABLE
WITH params AS (
    SELECT
        encoder AS encoder_id,
        cutoff AS cutoff_name
)

SELECT
    m.hadm_id,
    l.subject_id,
    patient_split(l.subject_id) AS split,
    l.label,
    m.embedding
FROM readmission_labels(horizon_days := horizon_days) AS l
INNER JOIN admission_embeddings AS m ON l.hadm_id = m.hadm_id
INNER JOIN params ON m.encoder_id = params.encoder_id AND m.cutoff = params.cutoff_name
WHERE l.label IS NOT NULL AND l.mature;

COMMENT ON MACRO TABLE training_set IS
'training_set(encoder, cutoff := ''72h'', horizon_days := 30): what is a scorer fitted on?
One row per admission with a mature label and a known note (hadm_id).
split: train, valid or test, by patient.';
