-- scorer: what was fitted, on which encoder, and by which run?
--
-- Grain:   one row, of the scorer.
-- Params:  scorer (scorer_id).
SELECT
    s.scorer_id,
    s.name,
    s.version,
    s.encoder_id,
    s.cutoff,
    s.label_rule,
    s.horizon_days,
    s.task_sql,
    s.task_hash,
    s.aggregate,
    len(s.coef) AS dim,
    s.intercept,
    s.metrics,
    s.training_hash,
    s.created_at,
    e.manifest,
    r.run_id,
    r.started_at,
    r.finished_at,
    r.versions
FROM scorers AS s
LEFT JOIN encoders AS e ON s.encoder_id = e.encoder_id
LEFT JOIN runs AS r ON r.command = 'train' AND (r.counts ->> '$.scorer') = s.scorer_id
WHERE s.scorer_id = $scorer
ORDER BY r.run_id DESC
LIMIT 1
