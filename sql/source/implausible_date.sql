-- implausible_date(t): is this date or time outside the years that a hospital can record?
--
-- MIMIC shifts dates of birth back to 1800 and other dates forward to 2210. A year such as 21 is a
-- typing error, 9999 means "no end", and PostgreSQL has infinite times.
CREATE MACRO implausible_date(t) AS
coalesce(NOT isfinite(t) OR year(t) NOT BETWEEN 1700 AND 2399, FALSE);
