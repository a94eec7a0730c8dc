-- unreadable_date(value): does a value of the source fail to convert to a date or time?
CREATE MACRO unreadable_date(value) AS value IS NOT NULL AND TRY_CAST(value AS TIMESTAMP) IS NULL;
