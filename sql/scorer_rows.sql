-- scorer_rows: on which admissions was a scorer fitted, chosen and tested?
--
-- Grain:   one row per scorer and admission (scorer_id, hadm_id), frozen.
CREATE TABLE scorer_rows (
    scorer_id VARCHAR NOT NULL,
    hadm_id BIGINT NOT NULL,
    split VARCHAR NOT NULL CHECK (split IN ('train', 'valid', 'test')),
    label BOOLEAN NOT NULL
);
