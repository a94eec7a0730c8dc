-- audited_scorers($scorer): which scorers have this id or name, or all where $scorer is NULL?
--
-- Grain:   one row per scorer (scorer_id), the oldest first.
-- Columns: scorer_id, encoder_id, cutoff, horizon_days, metrics, manifest (of the encoder; NULL if
--          it was dropped), schema_name (of the store).
SELECT
    s.scorer_id,
    s.encoder_id,
    s.cutoff,
    s.horizon_days,
    s.metrics,
    e.manifest,
    settings.schema_name
FROM scorers AS s
LEFT JOIN encoders AS e ON s.encoder_id = e.encoder_id
CROSS JOIN settings
WHERE $scorer IS NULL OR $scorer IN (s.scorer_id, s.name)
ORDER BY s.created_at ASC;
