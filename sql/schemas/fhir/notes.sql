-- The canonical columns of notes, from the resource DocumentReference of FHIR R4 and R5.
--
-- Grain:   one row per document (note_id).
-- Input:   documentreference (json), encounter (json), as a folder of ndjson files has them;
--          DuckDB's SQL.
-- Rule:    the text is that of the first attachment of plain text whose data are in the resource,
--          else of HTML. A link, PDF or RTF has no text. A draft and what was superseded or
--          entered in error are flagged. Times are the wall clock as written, without their offset.
WITH RECURSIVE encounters AS (
    SELECT
        json ->> '$.id' AS id,
        regexp_extract(
            json ->> '$.partOf.reference', '(?:Encounter/|^urn:uuid:)([\w.-]+)', 1
        ) AS parent_id,
        -- As in admissions.sql.
        list_has_any(
            list_append(json ->> '$.class[*].coding[*].code', json ->> '$.class.code'),
            ['IMP', 'ACUTE', 'NONAC', 'OBSENC']
        )
        AND (json ->> '$.status') IN (
            'in-progress', 'onleave', 'on-hold',
            'finished', 'completed', 'discharged', 'discontinued'
        ) AS is_inpatient
    FROM encounter
),

ancestors AS (
    SELECT
        id,
        parent_id AS ancestor_id,
        1 AS distance
    FROM encounters
    UNION
    SELECT
        a.id,
        e.parent_id AS ancestor_id,
        a.distance + 1 AS distance
    FROM ancestors a
    INNER JOIN encounters e ON a.ancestor_id = e.id
    WHERE a.distance < 10
),

outermost_stays AS (
    SELECT
        a.id,
        arg_max(a.ancestor_id, a.distance) AS stay_id
    FROM ancestors a
    INNER JOIN encounters e ON a.ancestor_id = e.id
    WHERE e.is_inpatient
    GROUP BY a.id
),

-- A note on the encounter of a ward or an ICU belongs to the stay that contains it. DuckDB expects
-- one row from the list, and so builds its hash table of these rows, not of the documents.
containing_stays AS (
    SELECT unnest(list(outermost_stays), recursive := TRUE)
    FROM outermost_stays
),

resources AS (
    SELECT
        unnest(
            from_json(
                json,
                '{
                    "id": "VARCHAR", "status": "VARCHAR", "docStatus": "VARCHAR", "type": "JSON",
                    "category": "JSON", "subject": "JSON", "context": "JSON", "date": "VARCHAR",
                    "content": [
                        {
                            "attachment": {
                                "contentType": "VARCHAR", "data": "VARCHAR", "creation": "VARCHAR"
                            }
                        }
                    ]
                }'
            )
        )
    FROM documentreference
),

documents AS (
    SELECT
        id,
        regexp_extract(
            subject ->> '$.reference', '(?:Patient/|^urn:uuid:)([\w.-]+)', 1
        ) AS patient_id,
        -- R4 has an object with a list of encounters, R5 a list of references.
        regexp_extract(
            array_to_string(
                list_concat(
                    context ->> '$.encounter[*].reference', context ->> '$[*].reference'
                ),
                ' '
            ),
            '(?:Encounter/|\burn:uuid:)([\w.-]+)',
            1
        ) AS encounter_id,
        coalesce(
            type ->> '$.text',
            type ->> '$.coding[0].display',
            category ->> '$[0].text',
            category ->> '$[0].coding[0].display'
        ) AS category,
        regexp_replace(date, '(Z|[+-]\d\d:\d\d)$', '') AS date,
        coalesce(status IN ('superseded', 'entered-in-error'), FALSE)
        OR coalesce(
            docstatus IN (
                'registered', 'partial', 'preliminary',
                'cancelled', 'entered-in-error', 'deprecated'
            ),
            FALSE
        ) AS is_error,
        -- Several attachments are one document in several formats.
        content[
            coalesce(
                list_position(
                    [
                        c['attachment']['data'] IS NOT NULL
                        AND lower(c['attachment']['contentType']) LIKE 'text/plain%'
                        FOR c IN content
                    ],
                    TRUE
                ),
                list_position(
                    [
                        c['attachment']['data'] IS NOT NULL
                        AND regexp_matches(
                            lower(c['attachment']['contentType']),
                            '^(text/html|application/xhtml[+]xml)'
                        )
                        FOR c IN content
                    ],
                    TRUE
                )
            )
        ]['attachment'] AS attachment,
        content[1]['attachment']['creation'] AS first_creation
    FROM resources
),

attachments AS (
    SELECT
        * EXCLUDE (attachment, first_creation),
        regexp_replace(
            coalesce(attachment['creation'], first_creation), '(Z|[+-]\d\d:\d\d)$', ''
        ) AS creation,
        lower(attachment['contentType']) AS content_type,
        coalesce(
            try(from_base64(attachment['data'])),
            -- Base64 may be written in lines.
            try(from_base64(regexp_replace(attachment['data'], '\s', '', 'g')))
        ) AS bytes
    FROM documents
),

texts AS (
    SELECT
        * EXCLUDE (bytes),
        CASE
            WHEN content_type NOT LIKE '%charset%' OR content_type LIKE '%utf-8%'
                THEN try(decode(bytes))
            ELSE decoded_text(bytes, regexp_extract(content_type, 'charset\s*=\s*"?([\w.:-]+)', 1))
        END AS text
    FROM attachments
)

SELECT
    d.id AS note_id,
    nullif(d.patient_id, '') AS source_subject_id,
    coalesce(s.stay_id, nullif(d.encounter_id, '')) AS source_hadm_id,
    d.category,
    left(coalesce(d.creation, d.date), 10) AS chartdate,
    CASE WHEN length(d.creation) > 10 THEN left(d.creation, 19) END AS charttime,
    -- Some servers keep the first date of a document that was written again.
    CASE
        WHEN length(d.date) > 10 AND length(d.creation) > 10
            THEN greatest(left(d.date, 19), left(d.creation, 19))
        WHEN length(d.date) > 10 THEN left(d.date, 19)
    END AS storetime,
    d.is_error,
    CASE WHEN d.content_type LIKE 'text/plain%' THEN d.text ELSE html_text(d.text) END AS text
FROM texts d
LEFT JOIN containing_stays s ON d.encounter_id = s.id
