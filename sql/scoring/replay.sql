-- replay($run, $scorer): does a scorer give the same scores again as in a past run?
--
-- Grain:   one row.
-- Columns: scored, same (to the last bit), missing (their vectors changed since and are not kept),
--          max_difference.
WITH means AS (
    SELECT
        encoder_id,
        hadm_id,
        cutoff,
        embedding
    FROM admission_embeddings
    UNION ALL
    SELECT
        encoder_id,
        hadm_id,
        cutoff,
        embedding
    FROM archived_admission_embeddings
),

-- Outdated means are archived; of the other aggregates only today's windows are left.
recomputed_scores AS (
    SELECT
        m.hadm_id,
        hash(m.embedding) AS input_hash,
        greatest(
            s.min_probability,
            least(
                s.max_probability,
                1 / (1 + exp(-(list_inner_product(m.embedding, s.coef) + s.intercept)))
            )
        ) AS probability
    FROM scorers AS s
    INNER JOIN means AS m ON s.encoder_id = m.encoder_id AND s.cutoff = m.cutoff
    WHERE s.scorer_id = $scorer AND s.aggregate = 'mean'
    QUALIFY row_number() OVER (PARTITION BY m.hadm_id, hash(m.embedding)) = 1
    UNION ALL
    SELECT
        w.hadm_id,
        w.input_hash,
        w.probability
    FROM score_admissions($scorer) AS w
    INNER JOIN scorers AS s ON s.scorer_id = $scorer
    WHERE s.aggregate <> 'mean'
)

SELECT
    count(*) AS scored,
    count(*) FILTER (WHERE n.probability = l.probability) AS same,
    count(*) FILTER (WHERE n.probability IS NULL) AS missing,
    coalesce(max(abs(n.probability - l.probability)), 0) AS max_difference
FROM scores AS l
LEFT JOIN recomputed_scores AS n ON l.hadm_id = n.hadm_id AND l.input_hash = n.input_hash
WHERE l.run_id = $run
