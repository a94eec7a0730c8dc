-- all_admissions: the admissions of the source, whose ids are numbers.
--
-- Grain:   one row per admission of the source.
-- Columns: those of read_admissions; hadm_id and subject_id (NULL where they are unreadable);
--          source_hadm_id and source_subject_id (NULL where the source has numbers).
CREATE VIEW all_admissions AS
WITH admissions_with_all_ids AS (
    SELECT
        NULL AS hadm_id,
        NULL AS subject_id,
        CAST(NULL AS VARCHAR) AS source_hadm_id,
        CAST(NULL AS VARCHAR) AS source_subject_id
    WHERE FALSE
    UNION ALL BY NAME
    FROM read_admissions
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
FROM admissions_with_all_ids;
