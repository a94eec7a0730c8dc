-- forget/patient_rows: which admissions, notes and means are of these patients?
--
-- Input:   patients (subject_id).
-- Grain:   one row per admission in patient_stays (hadm_id), per note in patient_notes (note_id),
--          and per admission whose mean uses one of the notes in patient_means (hadm_id).
CREATE TEMP TABLE scored_stays AS
SELECT
    hadm_id,
    subject_id
FROM scores
UNION
SELECT
    hadm_id,
    subject_id
FROM scorer_admissions;

CREATE TEMP TABLE patient_stays AS
SELECT hadm_id
FROM admissions
WHERE subject_id IN (FROM patients)
UNION
-- The source no longer has these stays.
SELECT s.hadm_id
FROM scored_stays AS s
ANTI JOIN admissions AS a ON s.hadm_id = a.hadm_id
WHERE s.subject_id IN (FROM patients)
UNION
-- A note may name an admission that is not in the store.
SELECT n.hadm_id
FROM notes AS n
ANTI JOIN admissions AS a ON n.hadm_id = a.hadm_id
ANTI JOIN scored_stays AS s ON n.hadm_id = s.hadm_id
WHERE n.subject_id IN (FROM patients) AND n.hadm_id IS NOT NULL;

CREATE TEMP TABLE patient_notes AS
SELECT note_id
FROM notes
WHERE subject_id IN (FROM patients) OR hadm_id IN (FROM patient_stays);

-- A note that was moved to them after it was embedded still counts in another stay's mean.
CREATE TEMP TABLE patient_means AS
FROM patient_stays
UNION
SELECT hadm_id
FROM embeddings
WHERE note_id IN (FROM patient_notes);
