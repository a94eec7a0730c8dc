-- invalid_admissions: which admissions of the source have values that the store cannot hold?
--
-- Grain:   one row per problem, in the order of the checks.
-- Columns: message, n_admissions (that have it as their first problem), example (the lowest of
--          their ids with its name; NULL where none can be read).
WITH problems AS (
    SELECT
        hadm_id,
        source_hadm_id,
        CASE
            WHEN hadm_id IS NULL AND count(source_hadm_id) OVER () > 0
                THEN (1, 'SOURCE_HADM_ID is missing')
            WHEN hadm_id IS NULL THEN (1, 'HADM_ID is not a number')
            WHEN subject_id IS NULL AND count(source_subject_id) OVER () > 0
                THEN (2, 'SOURCE_SUBJECT_ID is missing')
            WHEN subject_id IS NULL THEN (2, 'SUBJECT_ID is not a number')
            WHEN admittime IS NULL OR unreadable_date(admittime) THEN (3, 'ADMITTIME is not a date')
            WHEN implausible_date(TRY_CAST(admittime AS TIMESTAMP))
                THEN (4, 'ADMITTIME is before 1700 or after 2399')
            WHEN unreadable_date(dischtime) THEN (5, 'DISCHTIME is not a date')
            WHEN implausible_date(TRY_CAST(dischtime AS TIMESTAMP))
                THEN (6, 'DISCHTIME is before 1700 or after 2399 (NULL means still in hospital)')
            WHEN unreadable_date(deathtime) THEN (7, 'DEATHTIME is not a date')
            WHEN implausible_date(TRY_CAST(deathtime AS TIMESTAMP))
                THEN (8, 'DEATHTIME is before 1700 or after 2399')
            WHEN unreadable_date(dod) THEN (9, 'DOD is not a date')
            WHEN implausible_date(TRY_CAST(dod AS TIMESTAMP))
                THEN (10, 'DOD is before 1700 or after 2399')
            WHEN dob IS NOT NULL AND birth_date(dob) IS NULL THEN (11, 'DOB is not a date')
            WHEN implausible_date(birth_date(dob))
                THEN (12, 'DOB is before 1700 or after 2399')
            WHEN died_in_hospital IS NOT NULL AND flag(died_in_hospital) IS NULL
                THEN (13, 'DIED_IN_HOSPITAL is not TRUE or FALSE')
            WHEN planned IS NOT NULL AND flag(planned) IS NULL
                THEN (14, 'PLANNED is not TRUE or FALSE')
            WHEN min(source_hadm_id) OVER of_hadm_id <> max(source_hadm_id) OVER of_hadm_id
                THEN (15, 'SOURCE_HADM_ID has the number of another one')
            WHEN
                min(source_subject_id) OVER of_subject_id
                <> max(source_subject_id) OVER of_subject_id
                THEN (16, 'SOURCE_SUBJECT_ID has the number of another one')
            WHEN count(source_hadm_id) OVER of_hadm_id > 1
                THEN (17, 'SOURCE_HADM_ID is not unique')
            WHEN count(*) OVER of_hadm_id > 1 THEN (17, 'HADM_ID is not unique')
        END AS problem
    FROM source_admissions
    WINDOW
        of_hadm_id AS (PARTITION BY hadm_id),
        of_subject_id AS (PARTITION BY subject_id)
)

SELECT
    problem[2] AS message,
    count(*) AS n_admissions,
    coalesce(
        'source_hadm_id ' || min(source_hadm_id), 'hadm_id ' || CAST(min(hadm_id) AS VARCHAR)
    ) AS example
FROM problems
WHERE problem IS NOT NULL
GROUP BY problem
ORDER BY problem;
