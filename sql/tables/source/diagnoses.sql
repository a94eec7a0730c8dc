-- diagnoses: the coded diagnoses of a stay, where the source records them.
--
-- Grain:   one row per stay and code (hadm_id, vocabulary, code).
-- Hospitals code after the discharge, so no prediction may use them: they are for baselines and for
-- describing a cohort.
CREATE TABLE diagnoses (
    hadm_id BIGINT NOT NULL,
    subject_id BIGINT NOT NULL,
    vocabulary VARCHAR NOT NULL,
    code VARCHAR NOT NULL
);

COMMENT ON TABLE diagnoses IS
'The coded diagnoses of a stay, where the source records them.
One row per stay and code (hadm_id, vocabulary, code).';
COMMENT ON COLUMN diagnoses.vocabulary IS 'Such as ICD9CM or ICD10CM.';
COMMENT ON COLUMN diagnoses.code IS 'In upper case, without a dot.';
