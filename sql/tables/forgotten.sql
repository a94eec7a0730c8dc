-- forgotten: patients that were forgotten, as hashes; sync skips them.
--
-- Grain:   one row per patient (patient_hash).
-- The hashes are of no use for another store. But patient numbers are few: anyone who has this file
-- can test each number for whether it was forgotten.
CREATE TABLE forgotten (
    patient_hash VARCHAR NOT NULL,
    key BLOB NOT NULL,
    run_id INTEGER NOT NULL
);

COMMENT ON TABLE forgotten IS
'Patients that were forgotten, as hashes; sync skips them.
One row per patient (patient_hash).';
COMMENT ON COLUMN forgotten.patient_hash IS 'HMAC-SHA-256 of subject_id, in hex.';
COMMENT ON COLUMN forgotten.key IS 'Key of the hash: 32 random bytes, the same in every row.';
COMMENT ON COLUMN forgotten.run_id IS 'The run that forgot the patient.';
