-- latest_scores: what did each scorer last say of each admission?
--
-- Grain:   one row per scorer and admission (scorer_id, hadm_id).
CREATE OR REPLACE VIEW latest_scores AS
SELECT
    scorer_id,
    hadm_id,
    run_id,
    probability,
    prediction_time,
    scored_at
FROM scores
QUALIFY row_number() OVER (PARTITION BY scorer_id, hadm_id ORDER BY run_id DESC) = 1;
