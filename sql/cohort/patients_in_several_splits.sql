-- patients_in_several_splits($scorer_id): how many patients are in several splits of a scorer?
WITH patients AS (
    SELECT a.subject_id
    FROM scorer_admissions AS r
    INNER JOIN admissions AS a ON r.hadm_id = a.hadm_id
    WHERE r.scorer_id = $scorer_id
    GROUP BY a.subject_id
    HAVING count(DISTINCT r.split) > 1
)

SELECT count(*)
FROM patients;
