-- forget/unknown_patients($subject_ids): which of these patients are not in the store?
--
-- Grain:   one row per unknown patient (subject_id).
WITH patients AS (
    SELECT unnest($subject_ids) AS subject_id
)

SELECT p.subject_id
FROM patients AS p
ANTI JOIN admissions AS a ON p.subject_id = a.subject_id
ANTI JOIN notes AS n ON p.subject_id = n.subject_id
ANTI JOIN scores AS s ON p.subject_id = s.subject_id
ANTI JOIN scorer_admissions AS t ON p.subject_id = t.subject_id
ORDER BY p.subject_id;
