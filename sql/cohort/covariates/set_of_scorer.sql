-- set_of_scorer($scorer_id): which covariates does a scorer use?
--
-- Grain:   one row, or none where it has no covariates.
-- Columns: covariates_id, queries (SELECTs keyed by hadm_id).
SELECT
    c.covariates_id,
    c.queries
FROM scorers AS s
INNER JOIN covariate_sets AS c ON s.covariates_id = c.covariates_id
WHERE s.scorer_id = $scorer_id
