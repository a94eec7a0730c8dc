-- incoming_diagnoses: the rows that the table diagnoses should have.
--
-- Grain:   one row per stay and code (hadm_id, vocabulary, code).
-- Rule:    omitted are rows without a code or vocabulary, and those of an admission that is not in
--          the store or is another patient's.
CREATE TABLE incoming_diagnoses AS
SELECT DISTINCT
    a.hadm_id,
    a.subject_id,
    upper(trim(CAST(d.vocabulary AS VARCHAR))) AS vocabulary,
    upper(regexp_replace(CAST(d.code AS VARCHAR), '[.\s]', '', 'g')) AS code
FROM all_diagnoses AS d
INNER JOIN incoming_admissions AS a
    ON d.hadm_id = a.hadm_id AND coalesce(d.subject_id, a.subject_id) = a.subject_id
WHERE d.vocabulary IS NOT NULL AND nullif(trim(CAST(d.code AS VARCHAR)), '') IS NOT NULL;
