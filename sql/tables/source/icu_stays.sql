-- icu_stays: stays in intensive care, where the source records them.
--
-- Grain:   one row per stay in intensive care (icu_stay_id).
CREATE TABLE icu_stays (
    icu_stay_id VARCHAR NOT NULL,
    hadm_id BIGINT NOT NULL,
    subject_id BIGINT NOT NULL,
    intime TIMESTAMP NOT NULL,
    outtime TIMESTAMP,
    care_unit VARCHAR
);

COMMENT ON TABLE icu_stays IS
'Stays in intensive care, where the source records them.
One row per stay in intensive care (icu_stay_id).';
COMMENT ON COLUMN icu_stays.outtime IS
'NULL while the patient is there, or where the source has none after intime.';
COMMENT ON COLUMN icu_stays.care_unit IS 'The first unit.';
