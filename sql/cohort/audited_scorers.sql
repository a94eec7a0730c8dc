-- audited_scorers($scorer): which scorers have this id or name, or all where $scorer is NULL?
--
-- Grain:   one row per scorer (scorer_id), the oldest first.
-- Columns: scorer_id, encoder_id, cutoff, label_rule, horizon_days, metrics, manifest and
--          active (of the encoder; NULL if it was dropped).
SELECT
    s.scorer_id,
    s.encoder_id,
    s.cutoff,
    s.label_rule,
    s.horizon_days,
    s.task_hash,
    s.metrics,
    e.manifest,
    e.active
FROM scorers AS s
LEFT JOIN encoders AS e ON s.encoder_id = e.encoder_id
WHERE $scorer IS NULL OR $scorer IN (s.scorer_id, s.name)
ORDER BY s.created_at ASC;
