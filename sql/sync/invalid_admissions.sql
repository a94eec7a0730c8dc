-- invalid_admissions: which admissions of the source have values that the store cannot hold?
--
-- Grain:   one row per problem, in the order of the checks.
-- Columns: message, n_admissions (that have it as their first problem), hadm_id (the lowest of
--          them; NULL where none can be read).
WITH problems AS (
    SELECT
        TRY_CAST(hadm_id AS BIGINT) AS hadm_id,
        CASE
            WHEN TRY_CAST(hadm_id AS BIGINT) IS NULL THEN (1, 'HADM_ID is not a number')
            WHEN TRY_CAST(subject_id AS BIGINT) IS NULL THEN (2, 'SUBJECT_ID is not a number')
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
            WHEN died_in_hospital IS NOT NULL AND TRY_CAST(died_in_hospital AS BOOLEAN) IS NULL
                THEN (13, 'DIED_IN_HOSPITAL is not TRUE or FALSE')
            WHEN planned IS NOT NULL AND TRY_CAST(planned AS BOOLEAN) IS NULL
                THEN (14, 'PLANNED is not TRUE or FALSE')
            WHEN count(*) OVER (PARTITION BY TRY_CAST(hadm_id AS BIGINT)) > 1
                THEN (15, 'HADM_ID is not unique')
        END AS problem
    FROM source_admissions
)

SELECT
    problem[2] AS message,
    count(*) AS n_admissions,
    min(hadm_id) AS hadm_id
FROM problems
WHERE problem IS NOT NULL
GROUP BY problem
ORDER BY problem;
