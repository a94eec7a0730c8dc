-- forget/unknown_patients($subject_ids): which of these patients are not in the store?
--
-- Grain:   one row per unknown patient (subject_id).
WITH patients AS (
    SELECT unnest($subject_ids) AS subject_id
)

SELECT subject_id
FROM patients
ANTI JOIN admissions USING (subject_id)
ANTI JOIN notes USING (subject_id)
ANTI JOIN scores USING (subject_id)
ANTI JOIN scorer_admissions USING (subject_id)
ORDER BY subject_id;
