-- reference_scores: the scores that a scorer's nights are compared with.
--
-- Grain:   one row per scorer and stay that was predicted when it was fitted (scorer_id, hadm_id).
CREATE TABLE reference_scores (
    scorer_id VARCHAR NOT NULL,
    hadm_id BIGINT NOT NULL,
    subject_id BIGINT NOT NULL,
    probability DOUBLE
);

COMMENT ON TABLE reference_scores IS
'The scores that a scorer''s nights are compared with.
One row per scorer and stay that was predicted when it was fitted (scorer_id, hadm_id).';
COMMENT ON COLUMN reference_scores.probability IS
'NULL for training patients, on whom it was fitted. Stays without a label have one too.';
