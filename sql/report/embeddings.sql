-- embeddings: where do the scorer's admissions lie, and did the patients return?
--
-- Grain:   one row per admission, a sample of at most $limit, the same each time.
-- Params:  scorer (scorer_id), encoder, cutoff, horizon (days), limit.
SELECT
    t.embedding,
    r.label
FROM training_set($encoder, cutoff := $cutoff, horizon_days := $horizon) AS t
INNER JOIN scorer_admissions AS r ON t.hadm_id = r.hadm_id AND r.scorer_id = $scorer
WHERE r.label IS NOT NULL
ORDER BY md5(CAST(t.hadm_id AS VARCHAR))
LIMIT $limit
