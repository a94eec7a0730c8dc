-- embeddings: where do the scorer's admissions lie, and did the patients return?
--
-- Grain:   one row per admission, a sample of at most $limit, the same each time.
-- Params:  scorer (scorer_id), encoder, cutoff, limit.
SELECT
    t.embedding,
    r.label
FROM admission_embeddings AS t
INNER JOIN scorer_admissions AS r ON t.hadm_id = r.hadm_id AND r.scorer_id = $scorer
WHERE (t.encoder_id, t.cutoff) = ($encoder, $cutoff) AND r.label IS NOT NULL
ORDER BY md5(CAST(t.hadm_id AS VARCHAR))
LIMIT $limit
