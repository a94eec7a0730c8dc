-- file_labels: the labels of a file, as values of their types.
--
-- Input:   file_rows (a text per column, and row_no).
-- Grain:   one row per row of the file; an id, label or time that is not valid is NULL.
-- An id is that of the source where its ids are texts, or the number that stands for it. Times have
-- no zone, as those of the store: of a time with one, nobody can say which hour it was there.
CREATE OR REPLACE TEMP TABLE file_labels AS
WITH admission_ids AS (
    SELECT
        source_hadm_id,
        any_value(hadm_id) AS hadm_id
    FROM admissions
    WHERE source_hadm_id IS NOT NULL
    GROUP BY source_hadm_id
),

patient_ids AS (
    SELECT
        source_subject_id,
        any_value(subject_id) AS subject_id
    FROM admissions
    WHERE source_subject_id IS NOT NULL
    GROUP BY source_subject_id
),

-- 7.0 is the number 7 of a table with empty cells; 7.5 is not a number of an admission.
trimmed AS (
    SELECT
        row_no,
        is_meds,
        reason,
        trim(hadm_id) AS hadm_id,
        trim(subject_id) AS subject_id,
        regexp_replace(nullif(trim(label), ''), '^([01])\.0+$', '\1') AS label,
        nullif(trim(known_at), '') AS known_at,
        nullif(trim(prediction_time), '') AS prediction_time,
        TRY_CAST(regexp_extract(hadm_id, '^\s*(-?[0-9]+)(\.0*)?\s*$', 1) AS BIGINT)
            AS hadm_number,
        TRY_CAST(regexp_extract(subject_id, '^\s*(-?[0-9]+)(\.0*)?\s*$', 1) AS BIGINT)
            AS subject_number,
        '\d{4}[-/]\d{1,2}[-/]\d{1,2}([T ]\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?)?' AS time_pattern
    FROM file_rows
),

typed AS (
    SELECT
        t.row_no,
        t.is_meds,
        t.reason,
        coalesce(a.hadm_id, t.hadm_number) AS hadm_id,
        coalesce(p.subject_id, t.subject_number) AS subject_id,
        TRY_CAST(t.label AS BOOLEAN) AS label,
        CASE
            WHEN regexp_full_match(t.known_at, t.time_pattern)
                THEN TRY_CAST(t.known_at AS TIMESTAMP)
        END AS known_at,
        CASE
            WHEN regexp_full_match(t.prediction_time, t.time_pattern)
                THEN TRY_CAST(t.prediction_time AS TIMESTAMP)
        END AS prediction_time,
        t.label IS NOT NULL AS has_label,
        t.known_at IS NOT NULL AS has_known_at,
        t.prediction_time IS NOT NULL AS has_prediction_time,
        -- Where ids are texts, any text may be one of a stay that the store does not have.
        EXISTS (FROM admission_ids) AND t.hadm_id <> '' AS has_hadm_text,
        EXISTS (FROM patient_ids) AND t.subject_id <> '' AS has_subject_text
    FROM trimmed AS t
    LEFT JOIN admission_ids AS a ON t.hadm_id = a.source_hadm_id
    LEFT JOIN patient_ids AS p ON t.subject_id = p.source_subject_id
)

SELECT
    row_no,
    hadm_id,
    subject_id,
    label,
    nullif(reason, '') AS reason,
    known_at,
    prediction_time,
    CASE
        WHEN has_label AND label IS NULL THEN 'label'
        WHEN has_known_at AND known_at IS NULL THEN 'known_at'
        WHEN has_prediction_time AND prediction_time IS NULL THEN 'prediction_time'
        WHEN is_meds AND subject_id IS NULL AND has_subject_text IS NOT TRUE THEN 'subject_id'
        WHEN NOT is_meds AND hadm_id IS NULL AND has_hadm_text IS NOT TRUE THEN 'hadm_id'
    END AS invalid_column
FROM typed;
