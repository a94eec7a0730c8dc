-- available_at(storetime, charttime, chartdate): when was a note known?
--
-- storetime, else charttime, else the start of the day after chartdate: a note with only a date may
-- have been written at any hour of that day (advice of the MIMIC maintainers).
CREATE OR REPLACE MACRO available_at(storetime, charttime, chartdate) AS
coalesce(storetime, charttime, CAST(CAST(chartdate AS DATE) + 1 AS TIMESTAMP));

COMMENT ON MACRO available_at IS
'available_at(storetime, charttime, chartdate): when was a note known?';
