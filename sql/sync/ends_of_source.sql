-- ends_of_source: up to when does the source say that it was observed?
--
-- Grain:   one row per distinct value, which should be one row; NULL for one that is no time.
SELECT DISTINCT TRY_CAST(observed_until AS TIMESTAMP) AS observed_until
FROM source_admissions
WHERE observed_until IS NOT NULL;
