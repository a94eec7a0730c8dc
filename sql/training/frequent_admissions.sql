-- frequent_admissions: which patients had two or more admissions in the 12 months before this one?
--
-- Grain:   one row per such admission (hadm_id).
SELECT a.hadm_id
FROM admissions AS a
INNER JOIN admissions AS earlier
    ON a.subject_id = earlier.subject_id
    AND a.admittime > earlier.admittime
    AND earlier.admittime >= a.admittime - INTERVAL 12 MONTH
GROUP BY a.hadm_id
HAVING count(*) >= 2
