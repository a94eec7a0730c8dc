-- archive_covariates: which outdated covariates may a recorded score depend on?
--
-- Grain:   one row per set, cutoff, admission and design; see the table.
-- They are kept, so that featurestore replay can compute the score again.
SELECT
    d.covariates_id,
    d.cutoff,
    d.hadm_id,
    d.design_hash,
    d.design
FROM admission_covariates AS d
SEMI JOIN outdated_covariates AS o
    ON d.covariates_id = o.covariates_id AND d.cutoff = o.cutoff AND d.hadm_id = o.hadm_id
SEMI JOIN (
    SELECT
        c.covariates_id,
        c.cutoff,
        s.hadm_id
    FROM scores AS s
    INNER JOIN scorers AS c ON s.scorer_id = c.scorer_id
) AS s
    ON d.covariates_id = s.covariates_id AND d.cutoff = s.cutoff AND d.hadm_id = s.hadm_id
ANTI JOIN archived_admission_covariates AS a
    ON
        d.covariates_id = a.covariates_id
        AND d.cutoff = a.cutoff
        AND d.hadm_id = a.hadm_id
        AND d.design_hash = a.design_hash
