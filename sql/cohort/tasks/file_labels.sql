-- file_labels: the labels of a file, as values of their types.
--
-- Input:   file_rows (a text per column, and row_no).
-- Grain:   one row per row of the file; an id, label or time that is not valid is NULL.
CREATE OR REPLACE TEMP TABLE file_labels AS
SELECT
    row_no,
    TRY_CAST(hadm_id AS BIGINT) AS hadm_id,
    TRY_CAST(subject_id AS BIGINT) AS subject_id,
    TRY_CAST(label AS BOOLEAN) AS label,
    nullif(reason, '') AS reason,
    TRY_CAST(known_at AS TIMESTAMP) AS known_at,
    TRY_CAST(prediction_time AS TIMESTAMP) AS prediction_time,
    CASE
        WHEN nullif(label, '') IS NOT NULL AND TRY_CAST(label AS BOOLEAN) IS NULL THEN 'label'
        WHEN nullif(known_at, '') IS NOT NULL AND TRY_CAST(known_at AS TIMESTAMP) IS NULL
            THEN 'known_at'
        WHEN
            nullif(prediction_time, '') IS NOT NULL
            AND TRY_CAST(prediction_time AS TIMESTAMP) IS NULL
            THEN 'prediction_time'
        WHEN is_meds AND TRY_CAST(subject_id AS BIGINT) IS NULL THEN 'subject_id'
        WHEN NOT is_meds AND TRY_CAST(hadm_id AS BIGINT) IS NULL THEN 'hadm_id'
    END AS invalid_column
FROM file_rows;
