-- incoming_admissions: the rows that the table admissions should have.
--
-- Grain:   one row per admission (hadm_id).
-- Columns: those of admissions.
CREATE TABLE incoming_admissions AS
SELECT
    hadm_id,
    subject_id,
    CAST(admittime AS TIMESTAMP) AS admittime,
    CAST(dischtime AS TIMESTAMP) AS dischtime,
    CAST(deathtime AS TIMESTAMP) AS deathtime,
    coalesce(flag(died_in_hospital), FALSE) AS died_in_hospital,
    upper(trim(CAST(admission_type AS VARCHAR))) AS admission_type,
    coalesce(flag(planned), FALSE) AS planned,
    upper(trim(CAST(discharge_location AS VARCHAR))) AS discharge_location,
    CAST(CAST(dod AS TIMESTAMP) AS DATE) AS dod,
    CAST(gender AS VARCHAR) AS gender,
    -- MIMIC shifts the date of birth of patients over 89; their median age is 91.
    CASE
        WHEN date_sub('year', birth_date(dob), CAST(admittime AS DATE)) > 89 THEN 91
        ELSE date_sub('year', birth_date(dob), CAST(admittime AS DATE))
    END AS age,
    CAST(ethnicity AS VARCHAR) AS ethnicity,
    CAST(insurance AS VARCHAR) AS insurance,
    source_hadm_id,
    source_subject_id
FROM source_admissions;
