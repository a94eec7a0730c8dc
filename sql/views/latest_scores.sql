-- latest_scores: what did each scorer last say of each admission?
--
-- Grain:   one row per scorer and admission (scorer_id, hadm_id) that is still in the source.
-- Columns: risk_rank (1 is the riskiest of the scorer's admissions; equals share a rank) and
--          fraction_above (of the scorer's admissions, those with a higher probability).
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
