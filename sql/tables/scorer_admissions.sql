-- scorer_admissions: on which admissions was a scorer fitted, chosen and tested?
--
-- Grain:   one row per scorer and admission (scorer_id, hadm_id), frozen.
-- Columns: probability (the scorer's, when it was made), and those of the baselines beside it:
--          prior_admissions (two or more in the 12 months before), bag_of_words, head (the
--          fine-tuned classifier's own); NULL where there was none.
CREATE TABLE scorer_admissions (
    scorer_id VARCHAR NOT NULL,
    hadm_id BIGINT NOT NULL,
    split VARCHAR NOT NULL CHECK (split IN ('train', 'valid', 'test')),
    label BOOLEAN NOT NULL,
    probability DOUBLE,
    prior_admissions DOUBLE,
    bag_of_words DOUBLE,
    head DOUBLE
);
