-- score_admissions(scorer): what is the probability of every admission by a scorer?
--
-- Grain:   one row per admission of the encoder and cutoff of the scorer (hadm_id).
-- Rule:    the probabilities of n windows are combined as (Pmax + Pmean * n / 2) / (1 + n / 2)
--          (Huang, Altosaar, Ranganath 2019, arXiv 1904.05342, with c = 2), then calibrated.
--          No probability is more extreme than the patients of the calibration can support.
CREATE OR REPLACE MACRO score_admissions(scorer) AS TABLE
WITH params AS (
    SELECT scorer AS scorer_id
),

mean_scores AS (
    SELECT
        m.hadm_id,
        m.prediction_time,
        1 / (1 + exp(-(list_inner_product(m.embedding, s.coef) + s.intercept))) AS probability,
        s.min_probability,
        s.max_probability,
        m.vector_hash AS input_hash
    FROM scorers AS s
    INNER JOIN params ON s.scorer_id = params.scorer_id
    INNER JOIN admission_embeddings AS m ON s.encoder_id = m.encoder_id AND s.cutoff = m.cutoff
    WHERE s.aggregate = 'mean'
),

windows AS (
    SELECT
        m.hadm_id,
        m.prediction_time,
        s.calibration_slope,
        s.calibration_intercept,
        s.min_probability,
        s.max_probability,
        w.note_id,
        w.window_no,
        w.vector_hash,
        1 / (1 + exp(-(list_inner_product(w.embedding, s.coef) + s.intercept))) AS p
    FROM scorers AS s
    INNER JOIN params ON s.scorer_id = params.scorer_id
    INNER JOIN admission_embeddings AS m ON s.encoder_id = m.encoder_id AND s.cutoff = m.cutoff
    INNER JOIN embeddings AS w ON s.encoder_id = w.encoder_id AND m.hadm_id = w.hadm_id
    WHERE s.aggregate = 'clinicalbert' AND w.available_at <= m.prediction_time
),

combined AS (
    SELECT
        hadm_id,
        prediction_time,
        calibration_slope,
        calibration_intercept,
        min_probability,
        max_probability,
        -- In a fixed order, because the last bit of a sum depends on it.
        (max(p) + sum(p ORDER BY note_id, window_no) / 2) / (1 + count(*) / 2) AS p,
        bit_xor(hash(hash(note_id, window_no, vector_hash))) AS input_hash
    FROM windows
    GROUP BY ALL
),

clipped AS (
    SELECT * REPLACE (greatest(1e-9, least(1 - 1e-9, p)) AS p)
    FROM combined
),

probabilities AS (
    SELECT * FROM mean_scores
    UNION ALL BY NAME
    SELECT
        hadm_id,
        prediction_time,
        1 / (1 + exp(-(calibration_slope * ln(p / (1 - p)) + calibration_intercept)))
            AS probability,
        min_probability,
        max_probability,
        input_hash
    FROM clipped
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
probability: of a mean 1 / (1 + exp(-(embedding . coef + intercept))); of windows, their
combined probability, calibrated.
input_hash: what it was computed from.';
