-- The canonical columns of admissions, from the OMOP Common Data Model 5.4.
--
-- Grain:   one row per hospital stay (visit_occurrence_id).
-- Rule:    docs/schemas/omop.md gives the reasons. Sites differ in which visits are stays (the last
--          WHERE) and in what says that a stay was planned, for which OMOP has no field.
SELECT
    v.visit_occurrence_id AS hadm_id,
    v.person_id AS subject_id,
    coalesce(v.visit_start_datetime, v.visit_start_date) AS admittime,
    CASE
        -- Still a patient: the visit then ends with the extract.
        WHEN v.visit_type_concept_id = 32220 OR v.discharged_to_concept_id = 32220 THEN NULL
        -- An end without a time (NULL or midnight): a one-day stay ends when it begins.
        WHEN
            v.visit_start_date = v.visit_end_date
            AND coalesce(v.visit_end_datetime, v.visit_end_date)
            < coalesce(v.visit_start_datetime, v.visit_start_date)
            THEN coalesce(v.visit_start_datetime, v.visit_start_date)
        ELSE coalesce(v.visit_end_datetime, v.visit_end_date)
    END AS dischtime,
    CASE
        WHEN
            h.visit_occurrence_id IS NOT NULL
            OR v.discharged_to_concept_id IN (4216643, 434489, 4306655, 32218)
            THEN coalesce(h.death_datetime, v.visit_end_datetime, v.visit_end_date)
    END AS deathtime,
    CASE
        WHEN
            h.visit_occurrence_id IS NOT NULL
            OR v.discharged_to_concept_id IN (4216643, 434489, 4306655, 32218)
            THEN 1
        ELSE 0
    END AS died_in_hospital,
    CASE
        -- OHDSI's conversion of MIMIC-IV keeps the admission type as the source concept.
        WHEN s.vocabulary_id LIKE 'mimiciv_vis%' THEN s.source_type
        WHEN p.birth_datetime >= v.visit_start_date OR s.source_type = 'NEWBORN' THEN 'NEWBORN'
        WHEN v.visit_concept_id = 581385 THEN 'DIRECT OBSERVATION'
        WHEN s.planned = 1 THEN 'ELECTIVE'
        WHEN v.visit_concept_id = 262 THEN 'EMERGENCY'
        ELSE 'INPATIENT'
    END AS admission_type,
    CASE WHEN s.planned = 1 THEN 1 ELSE 0 END AS planned,
    CASE
        -- Patient died, Dead, Death, Expired.
        WHEN
            h.visit_occurrence_id IS NOT NULL
            OR v.discharged_to_concept_id IN (4216643, 434489, 4306655, 32218)
            THEN 'DIED'
        -- Patient self-discharge, its newer concept, Absent without leave.
        WHEN v.discharged_to_concept_id IN (4021968, 40482021, 44814693) THEN 'AGAINST ADVICE'
        -- Inpatient Hospital, General Acute Care Hospital, Hospital, inpatient visits.
        WHEN v.discharged_to_concept_id IN (8717, 38004279, 38004515, 9201, 262)
            THEN 'ACUTE HOSPITAL'
        ELSE v.discharged_to_source_value
    END AS discharge_location,
    d.death_date AS dod,
    -- A number: the year, or YYYYMMDD where the month is known. Text in CSV files becomes a number.
    CASE
        WHEN p.month_of_birth IS NULL THEN CAST(p.year_of_birth AS DECIMAL(8, 0))
        WHEN p.day_of_birth IS NULL
            THEN
                CAST(p.year_of_birth AS DECIMAL(8, 0)) * 10000
                + CAST(p.month_of_birth AS DECIMAL(8, 0)) * 100
                + 1
        ELSE
            CAST(p.year_of_birth AS DECIMAL(8, 0)) * 10000
            + CAST(p.month_of_birth AS DECIMAL(8, 0)) * 100
            + CAST(p.day_of_birth AS DECIMAL(8, 0))
    END AS dob,
    CASE
        WHEN p.gender_concept_id = 8507 THEN 'M'
        WHEN p.gender_concept_id = 8532 THEN 'F'
        ELSE p.gender_source_value
    END AS gender,
    CASE
        WHEN p.ethnicity_concept_id = 38003563 THEN 'HISPANIC OR LATINO'
        WHEN p.race_concept_id = 8527 THEN 'WHITE'
        WHEN p.race_concept_id = 8516 THEN 'BLACK OR AFRICAN AMERICAN'
        WHEN p.race_concept_id = 8515 THEN 'ASIAN'
        WHEN p.race_concept_id = 8657 THEN 'AMERICAN INDIAN OR ALASKA NATIVE'
        WHEN p.race_concept_id = 8557 THEN 'NATIVE HAWAIIAN OR OTHER PACIFIC ISLANDER'
        ELSE p.race_source_value
    END AS ethnicity,
    i.payer AS insurance,
    -- The CDM knows nothing of the time after its extract.
    o.observed_until
FROM visit_occurrence v
LEFT JOIN person p ON v.person_id = p.person_id
LEFT JOIN (
    SELECT
        c.concept_id,
        c.vocabulary_id,
        upper(c.concept_name) AS source_type,
        CASE
            WHEN
                upper(c.concept_name) LIKE 'ELECTIVE%'
                OR upper(c.concept_name) LIKE 'PLANNED%'
                OR upper(c.concept_name) LIKE '%, ELECTIVE%'
                OR upper(c.concept_name) = 'SURGICAL SAME DAY ADMISSION'
                THEN 1
            ELSE 0
        END AS planned
    FROM concept c
) s ON v.visit_source_concept_id = s.concept_id
-- Of several dates of death the latest counts, as OHDSI's conventions say.
LEFT JOIN (
    SELECT
        e.person_id,
        max(e.death_date) AS death_date
    FROM death e
    GROUP BY e.person_id
) d ON v.person_id = d.person_id
-- Deaths in hospital. Whoever was transferred on the day of death died in the next hospital.
LEFT JOIN (
    SELECT
        w.visit_occurrence_id,
        max(e.death_datetime) AS death_datetime
    FROM visit_occurrence w
    INNER JOIN death e
        ON
            w.person_id = e.person_id
            AND e.death_date BETWEEN w.visit_start_date AND w.visit_end_date
    WHERE
        w.discharged_to_concept_id IS NULL
        OR w.discharged_to_concept_id NOT IN (8717, 38004279, 38004515, 9201, 262)
        OR e.death_date < w.visit_end_date
    GROUP BY w.visit_occurrence_id
) h ON v.visit_occurrence_id = h.visit_occurrence_id
-- The payer on the day of admission; of several, the first by name.
LEFT JOIN (
    SELECT
        w.visit_occurrence_id,
        min(y.payer_source_value) AS payer
    FROM visit_occurrence w
    INNER JOIN payer_plan_period y
        ON
            w.person_id = y.person_id
            AND w.visit_start_date
            BETWEEN y.payer_plan_period_start_date AND y.payer_plan_period_end_date
    GROUP BY w.visit_occurrence_id
) i ON v.visit_occurrence_id = i.visit_occurrence_id
CROSS JOIN (
    SELECT min(r.source_release_date) AS observed_until
    FROM cdm_source r
) o
WHERE
    -- Inpatient Visit, Emergency Room and Inpatient Visit, Inpatient Hospital, Intensive Care,
    -- Inpatient Critical Care Facility, Observation Room. Not 9203 or 8870: an emergency visit that
    -- ended at home is no stay.
    v.visit_concept_id IN (9201, 262, 8717, 32037, 581379, 581385)
    -- OHDSI's conversion of MIMIC-IV gives stays the concept of the door: 8870 to most, 8883 to
    -- same-day surgery. It calls laboratory visits without a stay AMBULATORY OBSERVATION.
    OR (s.vocabulary_id LIKE 'mimiciv_vis%' AND s.source_type <> 'AMBULATORY OBSERVATION')
