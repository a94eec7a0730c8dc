-- common_stays: what did two scorers predict for each stay of their test patients?
--
-- Grain:   one row per admission that is a labelled test stay of either scorer (hadm_id).
-- Columns: hadm_id, subject_id, label, probability, other_probability, is_common (a labelled test
--          stay that both predict), trained_on_patient (the patient is a training or validation
--          patient of one of them), other_label (the two were evaluated on different labels).
-- $system names the column of the other probability: probability, or that of a baseline.
WITH developed_on AS (
    SELECT DISTINCT subject_id
    FROM scorer_admissions
    WHERE scorer_id IN ($scorer, $other) AND split <> 'test'
),

own AS (
    SELECT *
    FROM scorer_admissions
    WHERE scorer_id = $scorer AND split = 'test' AND label IS NOT NULL
),

others AS (
    SELECT
        s.hadm_id,
        s.subject_id,
        s.label,
        CAST(json_extract_string(to_json(s), '$.' || $system) AS DOUBLE) AS probability
    FROM scorer_admissions AS s
    WHERE s.scorer_id = $other AND s.split = 'test' AND s.label IS NOT NULL
)

SELECT
    coalesce(own.hadm_id, others.hadm_id) AS hadm_id,
    coalesce(own.subject_id, others.subject_id) AS subject_id,
    coalesce(own.label, others.label) AS label,
    own.probability,
    others.probability AS other_probability,
    own.probability IS NOT NULL AND others.probability IS NOT NULL AS is_common,
    coalesce(own.subject_id, others.subject_id) IN (
        SELECT d.subject_id FROM developed_on AS d
    ) AS trained_on_patient,
    coalesce(own.label <> others.label, FALSE) AS other_label
FROM own
FULL OUTER JOIN others ON own.hadm_id = others.hadm_id
ORDER BY hadm_id
