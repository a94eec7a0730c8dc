-- available_at(storetime, charttime, chartdate): when was a note known?
--
-- The time it was stored, else charted, else the start of the day after its date: a note that only
-- has a date may have been written at any hour of it (the advice of MIMIC's maintainers).
CREATE OR REPLACE MACRO available_at(storetime, charttime, chartdate) AS
coalesce(storetime, charttime, CAST(CAST(chartdate AS DATE) + 1 AS TIMESTAMP));
