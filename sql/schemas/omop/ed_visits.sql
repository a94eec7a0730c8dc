-- The canonical columns of visits to the emergency department, from the OMOP CDM 5.4.
--
-- Grain:   one row per emergency room visit (visit_occurrence_id).
-- Rule:    a visit that is part of an inpatient visit (concept 262) has no times of its own.
SELECT
    v.person_id AS subject_id,
    n.visit_occurrence_id AS hadm_id,
    coalesce(v.visit_start_datetime, v.visit_start_date) AS intime,
    coalesce(v.visit_end_datetime, v.visit_end_date) AS outtime
FROM visit_occurrence v
LEFT JOIN visit_occurrence n ON v.visit_occurrence_id = n.preceding_visit_occurrence_id
WHERE v.visit_concept_id = 9203
