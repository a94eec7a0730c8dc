-- hospital_score: what is the HOSPITAL score of each admission at its discharge?
--
-- Grain:   one row per admission, ordered by hadm_id.
-- Columns: points (0 to 13, of the items that are known), is_unknown (one is not known).
-- Reads the registered table training_admissions (hadm_id).
-- Source:  Donze et al. 2013 (JAMA Internal Medicine 173:632), table 3: haemoglobin under 12 g/dL,
--          oncology service, sodium under 135 mmol/L, a procedure with an ICD code, an urgent
--          admission, admissions in the 12 months before, a length of stay of 5 days or more.
WITH stays AS (
    SELECT a.*
    FROM admissions AS a
    SEMI JOIN training_admissions AS t ON a.hadm_id = t.hadm_id
),

earlier AS (
    SELECT
        s.hadm_id,
        count(*) AS n_admissions
    FROM stays AS s
    INNER JOIN admissions AS e ON s.subject_id = e.subject_id
    WHERE e.admittime < s.admittime AND e.admittime >= s.admittime - INTERVAL 12 MONTHS
    GROUP BY s.hadm_id
)

SELECT
    s.hadm_id,
    coalesce(CAST(i.hemoglobin < 12 AS INTEGER), 0)
    + coalesce(2 * CAST(i.oncology_service AS INTEGER), 0)
    + coalesce(CAST(i.sodium < 135 AS INTEGER), 0)
    + coalesce(CAST(i.had_procedure AS INTEGER), 0)
    + CAST(NOT s.planned AS INTEGER)
    + CASE
        WHEN coalesce(e.n_admissions, 0) = 0 THEN 0
        WHEN e.n_admissions <= 5 THEN 2
        ELSE 5
    END
    + CASE WHEN date_diff('day', s.admittime, s.dischtime) >= 5 THEN 2 ELSE 0 END AS points,
    s.dischtime IS NULL
    OR i.hemoglobin IS NULL
    OR i.sodium IS NULL
    OR i.oncology_service IS NULL
    OR i.had_procedure IS NULL AS is_unknown
FROM stays AS s
LEFT JOIN earlier AS e ON s.hadm_id = e.hadm_id
LEFT JOIN hospital_score_items AS i ON s.hadm_id = i.hadm_id
ORDER BY s.hadm_id
