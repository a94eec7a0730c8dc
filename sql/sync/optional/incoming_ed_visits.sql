-- incoming_ed_visits: the rows that the table ed_visits should have.
--
-- Grain:   one row per patient and beginning of a visit (subject_id, intime).
-- Rule:    omitted are visits without a readable beginning, and those of patients without a stay.
CREATE TABLE incoming_ed_visits AS
WITH patients AS (
    SELECT DISTINCT subject_id
    FROM incoming_admissions
)

SELECT
    p.subject_id,
    CASE WHEN a.subject_id = p.subject_id THEN a.hadm_id END AS hadm_id,
    TRY_CAST(v.intime AS TIMESTAMP) AS intime,
    CASE
        WHEN TRY_CAST(v.outtime AS TIMESTAMP) >= TRY_CAST(v.intime AS TIMESTAMP)
            THEN TRY_CAST(v.outtime AS TIMESTAMP)
    END AS outtime
FROM all_ed_visits AS v
-- A condition on both patients here would compare each visit with each stay.
LEFT JOIN incoming_admissions AS a ON v.hadm_id = a.hadm_id
INNER JOIN patients AS p ON coalesce(v.subject_id, a.subject_id) = p.subject_id
WHERE TRY_CAST(v.intime AS TIMESTAMP) IS NOT NULL
    AND NOT implausible_date(TRY_CAST(v.intime AS TIMESTAMP))
QUALIFY
    row_number() OVER (
        PARTITION BY p.subject_id, TRY_CAST(v.intime AS TIMESTAMP)
        ORDER BY
            CASE WHEN a.subject_id = p.subject_id THEN a.hadm_id END NULLS LAST,
            TRY_CAST(v.outtime AS TIMESTAMP) DESC NULLS LAST
    ) = 1;
