-- The canonical columns of notes, from the OMOP Common Data Model 5.4.
--
-- Grain:   one row per note (note_id).
SELECT
    n.note_id,
    n.person_id AS subject_id,
    n.visit_occurrence_id AS hadm_id,
    -- 0 is "No matching concept".
    coalesce(c.concept_name, n.note_source_value, n.note_title) AS category,
    n.note_date AS chartdate,
    n.note_datetime AS charttime,
    -- OMOP has neither a time of storing nor a flag of errors.
    CASE WHEN 1 = 0 THEN n.note_datetime END AS storetime,
    0 AS is_error,
    n.note_text AS text
FROM note n
LEFT JOIN concept c ON n.note_class_concept_id = c.concept_id AND c.concept_id <> 0
