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

designs AS (
    SELECT
        covariates_id,
        cutoff,
        hadm_id,
        design
    FROM admission_covariates
    UNION ALL
    SELECT
        covariates_id,
        cutoff,
        hadm_id,
        design
    FROM archived_admission_covariates
),

-- Every mean of an admission with every one of its covariates; the hash says which are meant.
inputs AS (
    SELECT
        m.hadm_id,
        s.intercept,
        s.coef,
        s.min_probability,
        s.max_probability,
        m.embedding,
        CASE
            WHEN s.covariates_id IS NOT NULL
                THEN coalesce(d.design, s.all_missing)
        END AS design
    FROM scorer_parts($scorer) AS s
    INNER JOIN means AS m ON s.encoder_id = m.encoder_id AND s.cutoff = m.cutoff
    LEFT JOIN designs AS d
        ON s.covariates_id = d.covariates_id AND s.cutoff = d.cutoff AND m.hadm_id = d.hadm_id
    WHERE s.aggregate = 'mean'
),

-- Outdated means are archived; of the other aggregates only today's windows are left.
recomputed_scores AS (
    SELECT
        i.hadm_id,
        CASE
            WHEN i.design IS NULL THEN hash(i.embedding)
            ELSE hash(hash(i.embedding), hash(i.design))
        END AS input_hash,
        greatest(
            i.min_probability,
            least(
                i.max_probability,
                1 / (1 + exp(-(
                    CASE
                        WHEN i.design IS NULL THEN list_inner_product(i.embedding, i.coef)
                        ELSE list_inner_product(list_concat(i.embedding, i.design), i.coef)
                    END + i.intercept
                )))
            )
        ) AS probability
    FROM inputs AS i
    QUALIFY row_number() OVER (
        PARTITION BY i.hadm_id, hash(i.embedding), hash(i.design)
    ) = 1
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
