-- latest_scores: which admissions are at the highest risk, by the newest score of each scorer?
--
-- Grain:   one row per scorer and admission (scorer_id, hadm_id) that is in the source.
CREATE OR REPLACE VIEW latest_scores AS
WITH latest AS (
    SELECT
        scorer_id,
        hadm_id,
        run_id,
        probability,
        prediction_time,
        scored_at
    FROM scores
    WHERE hadm_id IN (SELECT a.hadm_id FROM admissions AS a)
    QUALIFY row_number() OVER (PARTITION BY scorer_id, hadm_id ORDER BY run_id DESC) = 1
)

SELECT
    scorer_id,
    hadm_id,
    probability,
    rank() OVER (PARTITION BY scorer_id ORDER BY probability DESC) AS risk_rank,
    (rank() OVER (PARTITION BY scorer_id ORDER BY probability DESC) - 1)
    / count(*) OVER (PARTITION BY scorer_id) AS fraction_above,
    prediction_time,
    run_id,
    scored_at
FROM latest;

COMMENT ON VIEW latest_scores IS
'Which admissions are at the highest risk, by the newest score of each scorer?
One row per scorer and admission (scorer_id, hadm_id) that is in the source.';
COMMENT ON COLUMN latest_scores.risk_rank IS
'1 is the highest risk of the scorer; ties share a rank.';
COMMENT ON COLUMN latest_scores.fraction_above IS
'Fraction of the admissions of the scorer that have a higher probability.';
