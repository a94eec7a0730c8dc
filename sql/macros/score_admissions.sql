-- score_admissions(scorer): what is the probability of every admission by a scorer?
--
-- Grain:   one row per admission of the encoder and cutoff of the scorer (hadm_id).
-- Rule:    scorers.aggregate says how the windows are combined. All but clinicalbert are the
--          regression of one vector: the mean (of all windows, of the means of the notes, of the
--          last note) is linear, so it is taken of the inner products, without the vectors.
--          clinicalbert combines the probabilities of n windows as
--          (Pmax + Pmean * n / 2) / (1 + n / 2) (Huang, Altosaar, Ranganath 2019, arXiv 1904.05342,
--          with c = 2), then calibrates. Sums have a fixed order, on which their last bit depends.
--          No probability is more extreme than the patients of the calibration can support.
CREATE OR REPLACE MACRO score_admissions(scorer) AS TABLE
WITH fitted AS (
    SELECT *
    FROM scorer_parts(scorer)
),

designs AS (
    SELECT
        m.hadm_id,
        coalesce(c.design, f.all_missing) AS design
    FROM fitted AS f
    INNER JOIN admission_embeddings AS m ON f.encoder_id = m.encoder_id AND f.cutoff = m.cutoff
    LEFT JOIN admission_covariates AS c
        ON f.covariates_id = c.covariates_id AND f.cutoff = c.cutoff AND m.hadm_id = c.hadm_id
    WHERE f.covariates_id IS NOT NULL
),

mean_scores AS (
    SELECT
        m.hadm_id,
        m.prediction_time,
        CASE
            WHEN d.design IS NULL THEN list_inner_product(m.embedding, f.coef)
            ELSE list_inner_product(list_concat(m.embedding, d.design), f.coef)
        END + f.intercept AS z,
        m.vector_hash AS input_hash
    FROM fitted AS f
    INNER JOIN admission_embeddings AS m ON f.encoder_id = m.encoder_id AND f.cutoff = m.cutoff
    LEFT JOIN designs AS d ON m.hadm_id = d.hadm_id
    WHERE f.aggregate = 'mean'
),

maxima AS (
    SELECT
        m.hadm_id,
        m.prediction_time,
        -- sqlfluff does not know lambda yet.
        list_reduce(  -- noqa: PRS
            list(w.embedding),
            lambda a, b: [greatest(pair[1], pair[2]) FOR pair IN list_zip(a, b)]
        ) AS embedding,
        bit_xor(hash(hash(w.note_id, w.window_no, w.vector_hash))) AS input_hash
    FROM fitted AS f
    INNER JOIN admission_embeddings AS m ON f.encoder_id = m.encoder_id AND f.cutoff = m.cutoff
    INNER JOIN embeddings AS w ON f.encoder_id = w.encoder_id AND m.hadm_id = w.hadm_id
    ANTI JOIN repeated_notes AS r ON f.encoder_id = r.encoder_id AND w.note_id = r.note_id
    WHERE f.aggregate = 'max' AND w.available_at <= m.prediction_time
    GROUP BY m.hadm_id, m.prediction_time
),

max_scores AS (
    SELECT
        m.hadm_id,
        m.prediction_time,
        list_inner_product(m.embedding, f.coef_of_vector) + f.intercept AS z,
        m.input_hash
    FROM maxima AS m
    CROSS JOIN fitted AS f
),

-- Before any join, so that no vector is kept in memory.
window_scores AS (
    SELECT
        f.encoder_id,
        f.cutoff,
        f.aggregate,
        w.hadm_id,
        w.note_id,
        w.window_no,
        w.available_at,
        w.vector_hash,
        list_inner_product(w.embedding, f.coef_of_vector) + f.intercept AS z
    FROM fitted AS f
    INNER JOIN embeddings AS w ON f.encoder_id = w.encoder_id
    WHERE f.aggregate IN ('mean-of-notes', 'last-note', 'clinicalbert')
),

windows AS (
    SELECT
        m.hadm_id,
        m.prediction_time,
        w.aggregate,
        w.note_id,
        w.window_no,
        w.vector_hash,
        w.z
    FROM window_scores AS w
    INNER JOIN admission_embeddings AS m
        ON w.encoder_id = m.encoder_id AND w.cutoff = m.cutoff AND w.hadm_id = m.hadm_id
    LEFT JOIN repeated_notes AS r ON w.encoder_id = r.encoder_id AND w.note_id = r.note_id
    WHERE
        w.available_at <= m.prediction_time
        AND (r.note_id IS NULL OR w.aggregate = 'last-note')
    QUALIFY
        w.aggregate <> 'last-note'
        OR rank() OVER (PARTITION BY m.hadm_id ORDER BY w.available_at DESC, w.note_id DESC) = 1
),

note_scores AS (
    SELECT
        hadm_id,
        prediction_time,
        note_id,
        sum(z ORDER BY window_no) / count(*) AS z,
        bit_xor(hash(hash(note_id, window_no, vector_hash))) AS input_hash
    FROM windows
    WHERE aggregate <> 'clinicalbert'
    GROUP BY hadm_id, prediction_time, note_id
),

window_probabilities AS (
    SELECT
        *,
        1 / (1 + exp(-z)) AS p
    FROM windows
    WHERE aggregate = 'clinicalbert'
),

combined AS (
    SELECT
        hadm_id,
        prediction_time,
        (max(p) + sum(p ORDER BY note_id, window_no) / 2) / (1 + count(*) / 2) AS p,
        bit_xor(hash(hash(note_id, window_no, vector_hash))) AS input_hash
    FROM window_probabilities
    GROUP BY hadm_id, prediction_time
),

clipped AS (
    SELECT * REPLACE (greatest(1e-9, least(1 - 1e-9, p)) AS p)
    FROM combined
),

log_odds AS (
    SELECT * FROM mean_scores
    UNION ALL BY NAME
    SELECT * FROM max_scores
    UNION ALL BY NAME
    SELECT
        hadm_id,
        prediction_time,
        sum(z ORDER BY note_id) / count(*) AS z,
        bit_xor(input_hash) AS input_hash
    FROM note_scores
    GROUP BY hadm_id, prediction_time
    UNION ALL BY NAME
    SELECT
        hadm_id,
        prediction_time,
        ln(p / (1 - p)) AS z,
        input_hash
    FROM clipped
),

-- Of a mean, the covariates are in the inner product already.
with_covariates AS (
    SELECT
        l.hadm_id,
        l.prediction_time,
        CASE
            WHEN d.design IS NULL OR f.aggregate = 'mean' THEN l.z
            ELSE l.z + list_inner_product(d.design, f.coef_of_design)
        END AS z,
        CASE
            WHEN d.design IS NULL THEN l.input_hash
            ELSE hash(l.input_hash, hash(d.design))
        END AS input_hash
    FROM log_odds AS l
    CROSS JOIN fitted AS f
    LEFT JOIN designs AS d ON l.hadm_id = d.hadm_id
),

probabilities AS (
    SELECT
        l.hadm_id,
        l.prediction_time,
        1 / (1 + exp(-(f.calibration_slope * l.z + f.calibration_intercept))) AS probability,
        f.min_probability,
        f.max_probability,
        l.input_hash
    FROM with_covariates AS l
    CROSS JOIN fitted AS f
)

SELECT
    hadm_id,
    prediction_time,
    greatest(min_probability, least(max_probability, probability)) AS probability,
    input_hash
FROM probabilities;

COMMENT ON MACRO TABLE score_admissions IS
'score_admissions(scorer): what is the probability of every admission by a scorer?
One row per admission of the encoder and cutoff of the scorer (hadm_id).
probability: of a mean 1 / (1 + exp(-(embedding . coef + intercept))), where the design of
admission_covariates is appended to the embedding if the scorer has covariates; scorers.aggregate
says how windows are combined otherwise.
input_hash: what it was computed from.';
