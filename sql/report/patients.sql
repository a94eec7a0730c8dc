-- patients: who are the patients of each split, with a labelled stay?
--
-- Grain:   one row per split.
-- Params:  scorer (scorer_id).
SELECT
    r.split,
    count(DISTINCT a.subject_id) AS patients,
    median(a.age) AS age,
    avg(CAST(a.gender = 'F' AS INTEGER)) AS women,
    CAST(min(a.admittime) AS DATE) AS first_admission,
    CAST(max(a.admittime) AS DATE) AS last_admission
FROM scorer_admissions AS r
INNER JOIN admissions AS a USING (hadm_id)
WHERE r.scorer_id = $scorer AND r.label IS NOT NULL
GROUP BY r.split
