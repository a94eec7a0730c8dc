-- admissions: the hospital stays, as the source has them.
--
-- Grain:   one row per admission (hadm_id).
-- Columns: died_in_hospital (the source's expire flag), planned (elective), dod (date of death, in
--          hospital or after), age (years at admission; 91 for patients over 89).
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
    insurance VARCHAR
);
