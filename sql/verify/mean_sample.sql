-- verify/mean_sample($cutoff): up to 100 means of a cutoff that are up to date, chosen at random.
--
-- Grain:   one row per encoder and admission, numbered by sample_no from 0.
-- After a sync, notes may have changed that are not embedded yet: their means are left out.
SELECT
    row_number() OVER () - 1 AS sample_no,
    encoder_id,
    hadm_id,
    embedding
FROM admission_embeddings
SEMI JOIN admission_windows(cutoff := $cutoff) USING (encoder_id, hadm_id, cutoff, windows_hash)
USING SAMPLE 100 ROWS;
