-- ends_of_source: up to when does the source say that it was observed?
--
-- Grain:   one row per distinct value, which should be one row; NULL for one that is no time, or is
--          before 1700. A year such as 9999 means that everything was observed.
SELECT DISTINCT
    CASE
        WHEN year(TRY_CAST(observed_until AS TIMESTAMP)) >= 1700
            THEN TRY_CAST(observed_until AS TIMESTAMP)
    END AS observed_until
FROM source_admissions
WHERE observed_until IS NOT NULL;
