-- score_admissions(scorer): what does a scorer say of every admission now?
--
-- Grain:   one row per admission of the scorer's encoder and cutoff (hadm_id).
-- Columns: hadm_id, prediction_time, probability: 1 / (1 + exp(-(embedding . coef + intercept))).
CREATE OR REPLACE MACRO score_admissions(scorer) AS TABLE
WITH asked AS (
    SELECT scorer AS scorer_id
)

SELECT
    m.hadm_id,
    m.prediction_time,
    1 / (1 + exp(-(array_inner_product(m.embedding, s.coef) + s.intercept))) AS probability
FROM scorers AS s
INNER JOIN asked ON s.scorer_id = asked.scorer_id
INNER JOIN admission_embeddings AS m ON s.encoder_id = m.encoder_id AND s.cutoff = m.cutoff;
