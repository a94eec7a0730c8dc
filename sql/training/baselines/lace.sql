-- lace: what is the LACE index of each admission at its discharge?
--
-- Grain:   one row per admission, ordered by hadm_id.
-- Columns: points (0 to 19), is_unknown (no discharge, or no diagnosis was coded).
-- Reads the registered table training_admissions (hadm_id), and charlson_codes.
-- Source:  van Walraven et al. 2010 (CMAJ 182:551): length of stay in days, acute admission, the
--          weights of diseases that the paper gives, and visits to the emergency department in the
--          6 months before the admission. Codes of this stay and of earlier ones count.
-- Rule:    ICD does not grade renal disease: it has the 2 points of the mild one.
WITH weights (disease, points) AS (
    VALUES
    ('myocardial infarction', 1),
    ('cerebrovascular disease', 1),
    ('peripheral vascular disease', 1),
    ('diabetes', 1),
    ('heart failure', 2),
    ('diabetes with end organ damage', 2),
    ('chronic pulmonary disease', 2),
    ('mild liver disease', 2),
    ('renal disease', 2),
    ('tumor', 2),
    ('dementia', 3),
    ('rheumatic disease', 3),
    ('moderate or severe liver disease', 4),
    ('AIDS', 4),
    ('metastatic tumor', 6)
),

codes AS (
    SELECT DISTINCT
        vocabulary,
        code
    FROM diagnoses
),

diseases AS (
    SELECT DISTINCT
        codes.vocabulary,
        codes.code,
        c.disease
    FROM codes
    INNER JOIN charlson_codes() AS c
        ON starts_with(codes.vocabulary, c.vocabulary) AND starts_with(codes.code, c.code)
),

stays AS (
    SELECT
        a.hadm_id,
        a.subject_id,
        a.admittime,
        a.dischtime,
        a.planned
    FROM admissions AS a
    SEMI JOIN training_admissions AS t ON a.hadm_id = t.hadm_id
),

diseases_of_stays AS (
    SELECT DISTINCT
        s.hadm_id,
        w.points,
        w.disease
    FROM stays AS s
    INNER JOIN admissions AS e ON s.subject_id = e.subject_id AND s.admittime >= e.admittime
    INNER JOIN diagnoses AS d ON e.hadm_id = d.hadm_id
    INNER JOIN diseases AS x ON d.vocabulary = x.vocabulary AND d.code = x.code
    INNER JOIN weights AS w ON x.disease = w.disease
),

charlson AS (
    SELECT
        hadm_id,
        sum(points) AS points
    FROM diseases_of_stays
    GROUP BY hadm_id
),

emergencies AS (
    SELECT
        s.hadm_id,
        count(*) AS n_visits
    FROM stays AS s
    INNER JOIN ed_visits AS v ON s.subject_id = v.subject_id
    WHERE
        v.hadm_id IS DISTINCT FROM s.hadm_id
        AND v.intime >= s.admittime - INTERVAL 6 MONTHS
        AND coalesce(v.outtime, v.intime) < s.admittime
    GROUP BY s.hadm_id
),

coded AS (
    SELECT DISTINCT hadm_id
    FROM diagnoses
),

items AS (
    SELECT
        s.hadm_id,
        date_diff('day', s.admittime, s.dischtime) AS days,
        s.planned,
        coalesce(c.points, 0) AS charlson,
        coalesce(e.n_visits, 0) AS n_visits,
        s.dischtime IS NULL OR d.hadm_id IS NULL AS is_unknown
    FROM stays AS s
    LEFT JOIN charlson AS c ON s.hadm_id = c.hadm_id
    LEFT JOIN emergencies AS e ON s.hadm_id = e.hadm_id
    LEFT JOIN coded AS d ON s.hadm_id = d.hadm_id
)

SELECT
    hadm_id,
    CASE
        WHEN days < 1 OR days IS NULL THEN 0
        WHEN days <= 3 THEN days
        WHEN days <= 6 THEN 4
        WHEN days <= 13 THEN 5
        ELSE 7
    END
    + CASE WHEN planned THEN 0 ELSE 3 END
    + CASE WHEN charlson <= 3 THEN charlson ELSE 5 END
    + least(n_visits, 4) AS points,
    is_unknown
FROM items
ORDER BY hadm_id
