-- characteristics: who are the patients of each split, with and without the outcome? (Table 1)
--
-- Grain:   one row per split, outcome, characteristic and level, ordered by characteristic, level.
-- Params:  scorer (scorer_id), encoder, cutoff.
-- Columns: outcome is all, positive or negative; stays without a label do not count.
--          Of a category: level, and n (stays). Of a number: level NULL, n (stays of which it is
--          known), and its quartiles.
WITH prior_stays AS (
    SELECT
        a.hadm_id,
        count(e.hadm_id) AS admissions_before
    FROM admissions AS a
    LEFT JOIN admissions AS e
        ON
            a.subject_id = e.subject_id
            AND a.admittime > e.admittime
            AND a.admittime - INTERVAL 12 MONTH <= e.admittime
    GROUP BY a.hadm_id
),

described AS (
    SELECT
        r.split,
        unnest(['all', CASE WHEN r.label THEN 'positive' ELSE 'negative' END]) AS outcome,
        r.subject_id,
        a.age,
        a.gender,
        a.admission_type,
        a.insurance,
        ethnicity_group(a.ethnicity) AS ethnicity,
        epoch(a.dischtime - a.admittime) / 86400 AS days,
        p.admissions_before,
        m.n_notes
    FROM scorer_admissions AS r
    LEFT JOIN admissions AS a ON r.hadm_id = a.hadm_id
    LEFT JOIN prior_stays AS p ON r.hadm_id = p.hadm_id
    LEFT JOIN admission_embeddings AS m
        ON r.hadm_id = m.hadm_id AND m.encoder_id = $encoder AND m.cutoff = $cutoff
    WHERE r.scorer_id = $scorer AND r.label IS NOT NULL
),

characteristic_values AS (
    SELECT
        split,
        outcome,
        subject_id,
        unnest(
            [
                'stays', 'patients', 'age', 'length of stay', 'admissions in 12 months',
                'notes per stay', 'sex', 'admission type', 'insurance', 'ethnicity'
            ]
        ) AS characteristic,
        unnest(
            [NULL, NULL, NULL, NULL, NULL, NULL, gender, admission_type, insurance, ethnicity]
        ) AS recorded,
        unnest(
            [
                NULL, NULL, CAST(age AS DOUBLE), days, CAST(admissions_before AS DOUBLE),
                CAST(n_notes AS DOUBLE), NULL, NULL, NULL, NULL
            ]
        ) AS number_value
    FROM described
),

levels AS (
    SELECT
        *,
        characteristic IN ('sex', 'admission type', 'insurance', 'ethnicity') AS is_category,
        CASE WHEN is_category THEN coalesce(nullif(recorded, ''), 'not known') END AS level
    FROM characteristic_values
)

SELECT
    split,
    outcome,
    characteristic,
    level,
    CASE
        WHEN characteristic = 'stays' OR is_category THEN count(*)
        WHEN characteristic = 'patients' THEN count(DISTINCT subject_id)
        ELSE count(number_value)
    END AS n,
    quantile_cont(number_value, 0.25) AS lower_quartile,
    median(number_value) AS median,
    quantile_cont(number_value, 0.75) AS upper_quartile
FROM levels
GROUP BY split, outcome, characteristic, level, is_category
ORDER BY characteristic, level, split, outcome
