-- patient_split(subject_id): is a patient for training, validation or test (80/10/10)?
--
-- By the MD5 of the patient's number, so that it is the same in every store, for ever, and all
-- admissions of a patient stay on one side.
CREATE OR REPLACE MACRO patient_split(subject_id) AS
CASE
    WHEN md5_number_lower(CAST(subject_id AS VARCHAR)) % 10 < 8 THEN 'train'
    WHEN md5_number_lower(CAST(subject_id AS VARCHAR)) % 10 = 8 THEN 'valid'
    ELSE 'test'
END;
