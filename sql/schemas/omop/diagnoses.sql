-- The canonical columns of diagnoses, from the OMOP Common Data Model 5.4.
--
-- Grain:   one row per condition of a visit that was recorded as an ICD code.
SELECT
    c.visit_occurrence_id AS hadm_id,
    c.person_id AS subject_id,
    s.vocabulary_id AS vocabulary,
    s.concept_code AS code
FROM condition_occurrence c
INNER JOIN concept s ON c.condition_source_concept_id = s.concept_id
WHERE s.vocabulary_id LIKE 'ICD%' AND c.visit_occurrence_id IS NOT NULL
