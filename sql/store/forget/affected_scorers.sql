-- forget/affected_scorers: which scorers were fitted, chosen or tested on these patients?
--
-- Input:   patient_stays of forget/patient_rows.
-- Grain:   one row per scorer, with the number of the patients' stays in each split.
SELECT
    scorer_id,
    count(*) FILTER (split = 'train') AS train,
    count(*) FILTER (split = 'valid') AS valid,
    count(*) FILTER (split = 'test') AS test
FROM scorer_admissions
WHERE hadm_id IN (FROM patient_stays) OR subject_id IN (FROM patients)
GROUP BY scorer_id
ORDER BY scorer_id;
