-- with_number_ids(relation): what are the rows of a table of the source, with numbers as ids?
--
-- Grain:   one row per row of the relation, read_admissions or read_notes.
-- Columns: those of the relation; hadm_id and subject_id (NULL where they are unreadable);
--          source_hadm_id and source_subject_id (NULL where the source has numbers).
CREATE MACRO with_number_ids(relation) AS TABLE
WITH rows_with_all_ids AS (
    SELECT
        NULL AS hadm_id,
        NULL AS subject_id,
        CAST(NULL AS VARCHAR) AS source_hadm_id,
        CAST(NULL AS VARCHAR) AS source_subject_id
    WHERE FALSE
    UNION ALL BY NAME
    FROM query_table(relation)
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
FROM rows_with_all_ids;
