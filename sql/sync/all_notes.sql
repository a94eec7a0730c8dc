-- all_notes: the notes of the source, whose ids are numbers.
--
-- Grain:   one row per note of the source.
-- Columns: those of read_notes; hadm_id and subject_id (NULL where they are unreadable);
--          source_hadm_id and source_subject_id (NULL where the source has numbers).
CREATE VIEW all_notes AS
WITH notes_with_all_ids AS (
    SELECT
        NULL AS hadm_id,
        NULL AS subject_id,
        CAST(NULL AS VARCHAR) AS source_hadm_id,
        CAST(NULL AS VARCHAR) AS source_subject_id
    WHERE FALSE
    UNION ALL BY NAME
    FROM read_notes
)

SELECT
    * REPLACE (
        nullif(source_hadm_id, '') AS source_hadm_id,
        nullif(source_subject_id, '') AS source_subject_id,
        coalesce(
            stable_id(nullif(source_hadm_id, '')), TRY_CAST(hadm_id AS BIGINT)
        ) AS hadm_id,
        coalesce(
            stable_id(nullif(source_subject_id, '')), TRY_CAST(subject_id AS BIGINT)
        ) AS subject_id
    )
FROM notes_with_all_ids;
