-- forgotten: whom was this store told to forget? The next sync leaves them out.
--
-- Grain:   one row per patient (patient_hash).
-- Columns: patient_hash (HMAC-SHA-256 of the patient's number, in hex), key (of the hash: 32 random
--          bytes, the same in every row), run_id (the run that forgot them).
-- No list of numbers, and of no use for another store. But numbers are few: who has this file can
-- still ask of each of them whether it was forgotten.
CREATE TABLE forgotten (
    patient_hash VARCHAR NOT NULL,
    key BLOB NOT NULL,
    run_id INTEGER NOT NULL
);
