-- admissions: hospital stays as the source records them.
--
-- Grain:   one row per admission (hadm_id).
CREATE TABLE admissions (
    hadm_id BIGINT NOT NULL,
    subject_id BIGINT NOT NULL,
    admittime TIMESTAMP NOT NULL,
    dischtime TIMESTAMP,
    deathtime TIMESTAMP,
    died_in_hospital BOOLEAN NOT NULL,
    admission_type VARCHAR,
    planned BOOLEAN NOT NULL,
    discharge_location VARCHAR,
    dod DATE,
    gender VARCHAR,
    age INTEGER,
    ethnicity VARCHAR,
    insurance VARCHAR,
    source_hadm_id VARCHAR,
    source_subject_id VARCHAR
);

COMMENT ON TABLE admissions IS
'Hospital stays as the source records them.
One row per admission (hadm_id).';
COMMENT ON COLUMN admissions.source_hadm_id IS
'The id of the stay in a source whose ids are texts; hadm_id is made from it.';
COMMENT ON COLUMN admissions.source_subject_id IS
'The id of the patient in a source whose ids are texts; subject_id is made from it.';
COMMENT ON COLUMN admissions.died_in_hospital IS 'The expire flag of the source.';
COMMENT ON COLUMN admissions.planned IS 'Whether the admission was elective.';
COMMENT ON COLUMN admissions.dod IS 'Date of death, in hospital or later.';
COMMENT ON COLUMN admissions.age IS 'Years at admission; 91 for patients over 89.';
