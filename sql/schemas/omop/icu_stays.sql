-- The canonical columns of stays in intensive care, from the OMOP Common Data Model 5.4.
--
-- Grain:   one row per part of a visit in intensive care (visit_detail_id).
SELECT
    d.visit_detail_id AS icu_stay_id,
    d.visit_occurrence_id AS hadm_id,
    d.person_id AS subject_id,
    coalesce(d.visit_detail_start_datetime, d.visit_detail_start_date) AS intime,
    coalesce(d.visit_detail_end_datetime, d.visit_detail_end_date) AS outtime,
    d.visit_detail_source_value AS care_unit
FROM visit_detail d
-- Intensive Care, Inpatient Critical Care Facility.
WHERE d.visit_detail_concept_id IN (32037, 581379)
