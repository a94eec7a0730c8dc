-- former_stays: whose were the admissions that left the source, and of which scores are still kept?
--
-- Grain:   one row per admission (hadm_id); none that is in the source.
CREATE TABLE former_stays (
    hadm_id BIGINT NOT NULL,
    subject_id BIGINT NOT NULL
);
