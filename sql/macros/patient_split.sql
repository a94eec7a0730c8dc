-- patient_split(subject_id, turn := 0): is a patient in the train, valid or test split (80/10/10)?
--
-- By the MD5 of subject_id: the same in every store, and all admissions of a patient are in one
-- split. In ten turns, 0 to 9, each patient is in the test split once.
CREATE OR REPLACE MACRO patient_split(subject_id, turn := 0) AS
CASE (md5_number_lower(CAST(subject_id AS VARCHAR)) % 10 + turn) % 10
    WHEN 8 THEN 'valid'
    WHEN 9 THEN 'test'
    ELSE 'train'
END;

COMMENT ON MACRO patient_split IS
'patient_split(subject_id, turn := 0): is a patient in the train, valid or test split (80/10/10)?
In ten turns, 0 to 9, each patient is in the test split once.';
