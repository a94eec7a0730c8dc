-- latest_scores: what did each scorer last say of each admission?
--
-- Grain:   one row per scorer and admission (scorer_id, hadm_id) that is still in the source.
CREATE OR REPLACE VIEW latest_scores AS
SELECT
    scorer_id,
    hadm_id,
    run_id,
    probability,
    prediction_time,
    scored_at
FROM scores
WHERE hadm_id IN (SELECT a.hadm_id FROM admissions AS a)
QUALIFY row_number() OVER (PARTITION BY scorer_id, hadm_id ORDER BY run_id DESC) = 1;
