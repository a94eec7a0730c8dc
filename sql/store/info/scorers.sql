-- info/scorers: which scorers does the store hold?
--
-- Grain:   one row per scorer, the oldest first.
SELECT
    scorer_id AS scorer,
    encoder_id AS encoder,
    cutoff,
    horizon_days AS horizon
FROM scorers
ORDER BY created_at;
