-- archive_means: which outdated means was a recorded score computed from?
--
-- Grain:   one row per encoder, admission, cutoff and vector; see the table.
-- They are kept, so that featurestore replay can compute the score again.
SELECT
    m.encoder_id,
    m.hadm_id,
    m.cutoff,
    m.vector_hash,
    m.embedding
FROM admission_embeddings AS m
SEMI JOIN outdated_means AS o
    ON m.encoder_id = o.encoder_id AND m.hadm_id = o.hadm_id AND m.cutoff = o.cutoff
SEMI JOIN (
    SELECT
        c.encoder_id,
        c.cutoff,
        s.hadm_id,
        s.input_hash,
        d.design_hash
    FROM scores AS s
    INNER JOIN scorers AS c ON s.scorer_id = c.scorer_id
    LEFT JOIN (
        SELECT
            covariates_id,
            cutoff,
            hadm_id,
            design_hash
        FROM admission_covariates
        UNION ALL
        SELECT
            covariates_id,
            cutoff,
            hadm_id,
            design_hash
        FROM archived_admission_covariates
    ) AS d
        ON c.covariates_id = d.covariates_id AND c.cutoff = d.cutoff AND s.hadm_id = d.hadm_id
) AS s
    ON
        m.encoder_id = s.encoder_id
        AND m.hadm_id = s.hadm_id
        AND m.cutoff = s.cutoff
        AND s.input_hash = CASE
            WHEN s.design_hash IS NULL THEN m.vector_hash
            ELSE hash(m.vector_hash, s.design_hash)
        END
ANTI JOIN archived_admission_embeddings AS a
    ON
        m.encoder_id = a.encoder_id
        AND m.hadm_id = a.hadm_id
        AND m.cutoff = a.cutoff
        AND m.vector_hash = a.vector_hash
