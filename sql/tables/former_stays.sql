-- former_stays: patients of admissions that left the source but have recorded scores.
--
-- Grain:   one row per admission (hadm_id).
CREATE TABLE former_stays (
    hadm_id BIGINT NOT NULL,
    subject_id BIGINT NOT NULL
);

COMMENT ON TABLE former_stays IS
'Patients of admissions that left the source but have recorded scores.
One row per admission (hadm_id).';
