-- explain_admission(scorer, hadm_id): how much does each window contribute to a score?
--
-- Grain:   one row per window that the score was computed from (note_id, window_no), and one per
--          covariate (covariate).
CREATE OR REPLACE MACRO explain_admission(scorer, hadm_id) AS TABLE
WITH fitted AS (
    SELECT
        *,
        hadm_id AS query_hadm_id
    FROM scorer_parts(scorer)
),

averages AS (
    SELECT avg(list_inner_product(m.embedding, f.coef_of_vector)) AS dot_product
    FROM fitted AS f
    INNER JOIN admission_embeddings AS m ON f.encoder_id = m.encoder_id AND f.cutoff = m.cutoff
    -- Other admissions are only read for a scorer whose contributions are log odds.
    WHERE f.aggregate <> 'clinicalbert'
),

windows AS (
    SELECT
        w.note_id,
        n.category,
        w.available_at,
        w.window_no,
        f.aggregate,
        f.intercept,
        f.calibration_slope,
        f.coef_of_vector,
        w.embedding,
        list_inner_product(w.embedding, f.coef_of_vector) AS dot_product,
        1 / (1 + exp(-(list_inner_product(w.embedding, f.coef_of_vector) + f.intercept))) AS p
    FROM fitted AS f
    INNER JOIN admission_embeddings AS m
        ON f.encoder_id = m.encoder_id AND f.cutoff = m.cutoff AND f.query_hadm_id = m.hadm_id
    INNER JOIN embeddings AS w ON f.encoder_id = w.encoder_id AND m.hadm_id = w.hadm_id
    LEFT JOIN repeated_notes AS r ON f.encoder_id = r.encoder_id AND w.note_id = r.note_id
    LEFT JOIN notes AS n ON w.note_id = n.note_id
    WHERE
        w.available_at <= m.prediction_time
        AND (r.note_id IS NULL OR f.aggregate = 'last-note')
    QUALIFY
        f.aggregate <> 'last-note'
        OR rank() OVER (ORDER BY w.available_at DESC, w.note_id DESC) = 1
),

counted_windows AS (
    SELECT
        *,
        count(*) OVER () AS n_windows,
        count(*) OVER (PARTITION BY note_id) AS windows_of_note,
        row_number() OVER (ORDER BY p DESC, note_id ASC, window_no ASC) AS rank_of_p
    FROM windows
),

elements AS (
    SELECT
        note_id,
        window_no,
        unnest(embedding) AS element,
        generate_subscripts(embedding, 1) AS element_no
    FROM windows
    WHERE aggregate = 'max'
),

-- Which window each element of the maximum comes from: of equal ones, the first.
maxima AS (
    SELECT
        note_id,
        window_no,
        element_no,
        element
    FROM elements
    QUALIFY row_number() OVER (
        PARTITION BY element_no ORDER BY element DESC, note_id ASC, window_no ASC
    ) = 1
),

parts_of_maximum AS (
    SELECT
        m.note_id,
        m.window_no,
        count(*) / any_value(len(w.embedding)) AS share,
        sum(m.element * w.coef_of_vector[m.element_no]) AS dot_product
    FROM maxima AS m
    INNER JOIN windows AS w ON m.note_id = w.note_id AND m.window_no = w.window_no
    GROUP BY m.note_id, m.window_no
),

-- The share of each window in the vector, and its part of the inner product.
parts AS (
    SELECT
        w.*,
        CASE
            WHEN w.aggregate = 'max' THEN coalesce(x.share, 0)
            WHEN w.aggregate = 'mean' THEN 1 / w.n_windows
            ELSE 1 / w.windows_of_note / (SELECT count(DISTINCT note_id) FROM windows)
        END AS share,
        coalesce(x.dot_product, 0) AS part_of_maximum
    FROM counted_windows AS w
    LEFT JOIN parts_of_maximum AS x ON w.note_id = x.note_id AND w.window_no = x.window_no
),

covariates AS (
    SELECT
        unnest(v.columns) AS covariate,
        generate_subscripts(v.columns, 1) AS position_no,
        coalesce(c.design, f.all_missing) AS design,
        f.coef_of_design AS coef,
        f.covariate_means
    FROM fitted AS f
    INNER JOIN covariate_sets AS v ON f.covariates_id = v.covariates_id
    LEFT JOIN admission_covariates AS c
        ON
            f.covariates_id = c.covariates_id
            AND f.cutoff = c.cutoff
            AND f.query_hadm_id = c.hadm_id
),

-- Against the training mean, which a missing value counts as.
parts_of_covariates AS (
    SELECT
        covariate,
        CASE WHEN design[2 * position_no] = 0 THEN design[2 * position_no - 1] END AS value,
        coef[2 * position_no - 1] * (design[2 * position_no - 1] - covariate_means[position_no])
        + coef[2 * position_no] * design[2 * position_no] AS contribution,
        coef[2 * position_no - 1] * covariate_means[position_no] AS base
    FROM covariates
),

contributions AS (
    SELECT
        p.note_id,
        p.category,
        p.available_at,
        p.window_no,
        p.windows_of_note,
        NULL AS covariate,
        NULL AS value,
        CASE
            WHEN p.aggregate = 'max' THEN p.part_of_maximum - p.share * a.dot_product
            WHEN p.aggregate <> 'clinicalbert' THEN p.share * (p.dot_product - a.dot_product)
            WHEN p.calibration_slope = 0 THEN 0
            WHEN p.rank_of_p = 1 THEN 1.5 * p.p / (1 + p.n_windows / 2)
            ELSE 0.5 * p.p / (1 + p.n_windows / 2)
        END AS contribution
    FROM parts AS p
    CROSS JOIN averages AS a
    UNION ALL BY NAME
    SELECT
        covariate,
        value,
        contribution
    FROM parts_of_covariates
    -- An admission that has no score has no explanation either.
    WHERE EXISTS (FROM windows)
)

SELECT
    c.note_id,
    c.category,
    c.available_at,
    c.window_no,
    c.windows_of_note,
    c.contribution,
    CASE
        WHEN f.aggregate = 'clinicalbert' THEN 0
        ELSE
            f.intercept
            + a.dot_product
            + coalesce((SELECT sum(base ORDER BY covariate) FROM parts_of_covariates), 0)
    END AS base,
    c.covariate,
    c.value
FROM contributions AS c
CROSS JOIN fitted AS f
CROSS JOIN averages AS a
ORDER BY abs(c.contribution) DESC, c.note_id ASC, c.window_no ASC, c.covariate ASC;

COMMENT ON MACRO TABLE explain_admission IS
'explain_admission(scorer, hadm_id): how much does each window contribute to a score?
One row per window that the score was computed from (note_id, window_no), and one per covariate.
contribution, base: share * coef . (window - average) in log odds, where the shares of the windows
in the vector add up to 1, and the log odds of the average admission, by the means of the windows;
base plus all contributions are the log odds of the score, before its limits. Of a maximum, a window
has the part of the elements that it decides.
Of a covariate (value: NULL where it is missing), coef * (value - mean of the training stays).
For aggregate clinicalbert, the share of the window in (Pmax + Pmean * n / 2) / (1 + n / 2), and 0;
they add up to the probability before calibration. Without a signal nothing contributes.';
