-- flag(value): is a flag of the source set?
--
-- A boolean, a number (0 is not set, also as 0.0) or a text: 0, 1, true, false, yes, no or their
-- first letter, with blanks around it or not. NULL where it is another text.
CREATE MACRO flag(value) AS
coalesce(
    TRY_CAST(trim(CAST(value AS VARCHAR)) AS BOOLEAN),
    TRY_CAST(trim(CAST(value AS VARCHAR)) AS DOUBLE) <> 0
);
