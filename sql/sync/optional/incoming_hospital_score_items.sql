-- incoming_hospital_score_items: the rows that the table hospital_score_items should have.
--
-- Grain:   one row per stay (hadm_id).
-- Rule:    omitted are rows of an admission that is not in the store or is another patient's, and
--          both rows of an admission that comes twice.
CREATE TABLE incoming_hospital_score_items AS
SELECT
    a.hadm_id,
    a.subject_id,
    TRY_CAST(i.hemoglobin AS DOUBLE) AS hemoglobin,
    TRY_CAST(i.sodium AS DOUBLE) AS sodium,
    flag(i.oncology_service) AS oncology_service,
    flag(i.had_procedure) AS had_procedure
FROM all_hospital_score_items AS i
INNER JOIN incoming_admissions AS a
    ON i.hadm_id = a.hadm_id AND coalesce(i.subject_id, a.subject_id) = a.subject_id
QUALIFY count(*) OVER (PARTITION BY a.hadm_id) = 1;
