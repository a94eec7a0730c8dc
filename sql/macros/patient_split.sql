-- patient_split(subject_id): is a patient in the train, valid or test split (80/10/10)?
--
-- By the MD5 of subject_id: the same in every store, and all admissions of a patient are in one
-- split.
CREATE OR REPLACE MACRO patient_split(subject_id) AS
CASE
    WHEN md5_number_lower(CAST(subject_id AS VARCHAR)) % 10 < 8 THEN 'train'
    WHEN md5_number_lower(CAST(subject_id AS VARCHAR)) % 10 = 8 THEN 'valid'
    ELSE 'test'
END;

COMMENT ON MACRO patient_split IS
'patient_split(subject_id): is a patient in the train, valid or test split (80/10/10)?';
