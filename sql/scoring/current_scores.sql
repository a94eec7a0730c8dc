-- scoring/current_scores($scorer, $hadm_ids): what is the last score of each admission that can
-- be scored?
--
-- Grain:   one row per admission (hadm_id), the highest probability first.
-- Params:  $hadm_ids lists the admissions; empty for all.
SELECT
    l.hadm_id,
    l.probability,
    l.prediction_time,
    l.scorer_id,
    l.run_id,
    l.scored_at
FROM latest_scores AS l
INNER JOIN scorers AS s ON l.scorer_id = s.scorer_id
SEMI JOIN admission_embeddings AS m
    ON l.hadm_id = m.hadm_id AND s.encoder_id = m.encoder_id AND s.cutoff = m.cutoff
WHERE l.scorer_id = $scorer AND (len($hadm_ids) = 0 OR list_contains($hadm_ids, l.hadm_id))
ORDER BY l.probability DESC, l.hadm_id ASC;
