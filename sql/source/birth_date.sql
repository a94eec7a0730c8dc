-- birth_date(value): what is the date of birth that a source gives?
--
-- A date or time; a month (1950-07), a year (1950) or a number YYYYMMDD. Of a month or a year it is
-- the first day. NULL where the value cannot be read.
CREATE MACRO birth_date(value) AS
CASE
    WHEN regexp_full_match(CAST(value AS VARCHAR), '\d{4}(\.0*)?')
        THEN TRY_CAST(left(CAST(value AS VARCHAR), 4) || '-01-01' AS DATE)
    WHEN regexp_full_match(CAST(value AS VARCHAR), '\d{4}-\d{2}')
        THEN TRY_CAST(CAST(value AS VARCHAR) || '-01' AS DATE)
    WHEN regexp_full_match(CAST(value AS VARCHAR), '\d{8}(\.0*)?')
        THEN CAST(try_strptime(left(CAST(value AS VARCHAR), 8), '%Y%m%d') AS DATE)
    ELSE CAST(TRY_CAST(CAST(value AS VARCHAR) AS TIMESTAMP) AS DATE)
END;
