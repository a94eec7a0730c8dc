-- The canonical columns of admissions, from the resources Encounter and Patient of FHIR R4 and R5.
--
-- Grain:   one row per hospital stay (source_hadm_id).
-- Input:   encounter (json), patient (json), as a folder of ndjson files has them; DuckDB's SQL.
-- Rule:    a stay is an inpatient encounter that is not part of another one: a ward or an ICU may
--          have an encounter of its own. Times are the wall clock as written, without their offset.
WITH RECURSIVE encounters AS (
    SELECT
        json ->> '$.id' AS id,
        json ->> '$.status' AS status,
        regexp_extract(
            json ->> '$.subject.reference', '(?:Patient/|^urn:uuid:)([\w.-]+)', 1
        ) AS patient_id,
        regexp_extract(
            json ->> '$.partOf.reference', '(?:Encounter/|^urn:uuid:)([\w.-]+)', 1
        ) AS parent_id,
        -- R4 has one Coding, R5 a list of CodeableConcepts.
        list_append(json ->> '$.class[*].coding[*].code', json ->> '$.class.code') AS classes,
        coalesce(json -> '$.period', json -> '$.actualPeriod') AS period,
        json -> '$.priority' AS priority,
        coalesce(json -> '$.hospitalization', json -> '$.admission') AS hospitalization
    FROM encounter
),

inpatient AS (
    SELECT *
    FROM encounters
    WHERE
        list_has_any(classes, ['IMP', 'ACUTE', 'NONAC', 'OBSENC'])
        AND status IN (
            'in-progress', 'onleave', 'on-hold',
            'finished', 'completed', 'discharged', 'discontinued'
        )
),

ancestors AS (
    SELECT
        id,
        parent_id AS ancestor_id
    FROM encounters
    UNION
    SELECT
        a.id,
        e.parent_id AS ancestor_id
    FROM ancestors a
    INNER JOIN encounters e ON a.ancestor_id = e.id
),

stays AS (
    SELECT
        id,
        patient_id,
        priority,
        regexp_replace(period ->> '$.start', '(Z|[+-]\d\d:\d\d)$', '') AS started,
        CASE
            WHEN status NOT IN ('in-progress', 'onleave', 'on-hold')
                THEN regexp_replace(period ->> '$.end', '(Z|[+-]\d\d:\d\d)$', '')
        END AS ended,
        -- Some have two classes: an observation that became an inpatient stay is one.
        NOT list_has_any(classes, ['IMP', 'ACUTE', 'NONAC']) AS is_observation,
        list_contains(hospitalization ->> '$.admitSource.coding[*].code', 'born') AS is_newborn,
        hospitalization -> '$.dischargeDisposition' AS disposition,
        -- HL7's codes are words, those of US claims (NUBC) numbers.
        [
            coalesce(regexp_extract(coding ->> '$.system', 'nubc'), '') || (coding ->> '$.code')
            FOR coding IN json_extract(hospitalization, '$.dischargeDisposition.coding[*]')
        ] AS dispositions
    FROM inpatient
    WHERE
        id NOT IN (
            SELECT a.id
            FROM ancestors a
            INNER JOIN inpatient i ON a.ancestor_id = i.id
        )
),

patients AS (
    SELECT
        json ->> '$.id' AS id,
        json ->> '$.birthDate' AS dob,
        regexp_replace(json ->> '$.deceasedDateTime', '(Z|[+-]\d\d:\d\d)$', '') AS died,
        CASE json ->> '$.gender' WHEN 'female' THEN 'F' WHEN 'male' THEN 'M' END AS gender,
        -- US Core: the text, else the category of the Office of Management and Budget (OMB).
        list_extract(
            [
                list_concat(
                    race ->> '$.extension[*].valueString',
                    race ->> '$.extension[*].valueCoding.display'
                )
                FOR race IN json_extract(json, '$.extension[*]')
                IF (race ->> '$.url') LIKE '%/us-core-race'
            ],
            1
        ) AS races
    FROM patient
),

outcomes AS (
    SELECT
        s.*,
        left(s.started, 19) AS admittime,
        -- A period that ends on a date includes that day.
        CASE WHEN length(s.ended) = 10 THEN s.ended || 'T23:59:59' ELSE left(s.ended, 19) END
            AS dischtime,
        -- Only a time of death tells whether it was before the discharge of the same day.
        CASE
            WHEN left(p.died, 19) BETWEEN left(s.started, 19) AND left(s.ended, 19)
                AND length(p.died) >= 19
                THEN left(p.died, 19)
        END AS died_at,
        list_has_any(s.dispositions, ['exp', 'nubc20', 'nubc40', 'nubc41', 'nubc42'])
            AS is_expired,
        -- A date of death may be a year or a month: then the day is not known.
        CASE WHEN length(p.died) >= 10 THEN left(p.died, 10) END AS dod,
        p.dob,
        p.gender,
        upper(p.races[1]) AS race
    FROM stays s
    LEFT JOIN patients p ON s.patient_id = p.id
)

SELECT
    id AS source_hadm_id,
    nullif(patient_id, '') AS source_subject_id,
    admittime,
    dischtime,
    CASE WHEN died_at IS NOT NULL OR is_expired THEN coalesce(died_at, dischtime) END AS deathtime,
    coalesce(died_at IS NOT NULL OR is_expired, FALSE) AS died_in_hospital,
    CASE
        WHEN is_newborn THEN 'NEWBORN'
        WHEN is_observation THEN 'DIRECT OBSERVATION'
        WHEN list_contains(priority ->> '$.coding[*].code', 'EL') THEN 'ELECTIVE'
        WHEN list_contains(priority ->> '$.coding[*].code', 'EM') THEN 'EMERGENCY'
        WHEN list_contains(priority ->> '$.coding[*].code', 'UR') THEN 'URGENT'
        ELSE upper(coalesce(priority ->> '$.text', priority ->> '$.coding[0].display'))
    END AS admission_type,
    coalesce(list_contains(priority ->> '$.coding[*].code', 'EL'), FALSE) AS planned,
    CASE
        WHEN is_expired THEN 'DIED'
        WHEN list_has_any(dispositions, ['aadvice', 'nubc07']) THEN 'AGAINST ADVICE'
        -- Care at home, long-term care, nursing and rehabilitation have codes of their own.
        WHEN list_has_any(dispositions, ['other-hcf', 'nubc02', 'nubc43', 'nubc66'])
            THEN 'ACUTE HOSPITAL'
        ELSE
            upper(
                coalesce(
                    disposition ->> '$.text',
                    disposition ->> '$.coding[0].display',
                    disposition ->> '$.coding[0].code'
                )
            )
    END AS discharge_location,
    dod,
    dob,
    gender,
    race AS ethnicity,
    NULL AS insurance
FROM outcomes
