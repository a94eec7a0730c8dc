-- available_at(storetime, charttime, chartdate): when was a note known?
--
-- storetime, else charttime, else the start of the day after chartdate: a note with only a date may
-- have been written at any hour of that day (advice of the MIMIC maintainers). A storetime or
-- charttime at midnight on the note's own date is only a date too. The note's own date is
-- chartdate, or the date of the time itself where chartdate is NULL.
CREATE OR REPLACE MACRO available_at(storetime, charttime, chartdate) AS
CASE
    WHEN
        coalesce(storetime, charttime)
        <> CAST(CAST(coalesce(chartdate, storetime, charttime) AS DATE) AS TIMESTAMP)
        THEN coalesce(storetime, charttime)
    ELSE CAST(CAST(coalesce(storetime, charttime, chartdate) AS DATE) + 1 AS TIMESTAMP)
END;

COMMENT ON MACRO available_at IS
'available_at(storetime, charttime, chartdate): when was a note known?';
