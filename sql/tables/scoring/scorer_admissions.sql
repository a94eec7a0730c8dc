-- scorer_admissions: the admissions that a scorer was trained, validated and tested on.
--
-- Grain:   one row per scorer and admission (scorer_id, hadm_id); never updated.
CREATE TABLE scorer_admissions (
    scorer_id VARCHAR NOT NULL,
    hadm_id BIGINT NOT NULL,
    split VARCHAR NOT NULL CHECK (split IN ('train', 'valid', 'test')),
    label BOOLEAN,
    reason VARCHAR,
    probability DOUBLE,
    prior_admissions DOUBLE,
    utilisation DOUBLE,
    lace DOUBLE,
    hospital_score DOUBLE,
    bag_of_words DOUBLE,
    classifier_head DOUBLE,
    notes_alone DOUBLE,
    covariates_alone DOUBLE,
    subject_id BIGINT NOT NULL,
    CHECK (label IS NOT NULL OR (split = 'test' AND reason IS NOT NULL))
);

COMMENT ON TABLE scorer_admissions IS
'The admissions that a scorer was trained, validated and tested on.
One row per scorer and admission (scorer_id, hadm_id); never updated.';
COMMENT ON COLUMN scorer_admissions.label IS
'NULL for a test stay that was predicted but has no label: alerts count it, no other metric does.';
COMMENT ON COLUMN scorer_admissions.reason IS 'Why there is no label.';
COMMENT ON COLUMN scorer_admissions.probability IS 'Of the scorer, when it was fitted.';
COMMENT ON COLUMN scorer_admissions.prior_admissions IS
'Of the baseline: a regression on the number of admissions in the 12 months before.';
COMMENT ON COLUMN scorer_admissions.utilisation IS
'Of the baseline: a regression on age, sex, admission type, insurance and earlier stays.';
COMMENT ON COLUMN scorer_admissions.lace IS
'Of the baseline: a regression on the LACE index; NULL but for predictions after discharge.';
COMMENT ON COLUMN scorer_admissions.hospital_score IS
'Of the baseline: a regression on the HOSPITAL score; NULL where its items are not given.';
COMMENT ON COLUMN scorer_admissions.bag_of_words IS
'Of the baseline: bag of words; NULL without it.';
COMMENT ON COLUMN scorer_admissions.classifier_head IS
'Of the baseline: the fine-tuned classifier; NULL without it.';
COMMENT ON COLUMN scorer_admissions.notes_alone IS
'Of the scorer without its covariates; NULL where it has none.';
COMMENT ON COLUMN scorer_admissions.covariates_alone IS
'Of a regression on its covariates alone; NULL where it has none.';
COMMENT ON COLUMN scorer_admissions.subject_id IS
'The patient, by whom the row is found if the admission has left the source.';
