-- verify/mean_sample($cutoff): up to 100 means of a cutoff that are up to date, chosen at random.
--
-- Grain:   one row per encoder and admission, numbered by sample_no from 0.
-- After a sync, notes may have changed that are not embedded yet: their means are left out.
SELECT
    row_number() OVER () - 1 AS sample_no,
    m.encoder_id,
    m.hadm_id,
    m.embedding
FROM admission_embeddings AS m
SEMI JOIN admission_windows(cutoff := $cutoff) AS w
    ON
        m.encoder_id = w.encoder_id
        AND m.hadm_id = w.hadm_id
        AND m.cutoff = w.cutoff
        AND m.windows_hash = w.windows_hash
USING SAMPLE 100 ROWS;
