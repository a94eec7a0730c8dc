-- scorer_parts(scorer): what are the coefficients of a scorer of?
--
-- Grain:   one row. An unknown scorer is an error that names the known ones.
CREATE OR REPLACE MACRO scorer_parts(scorer) AS TABLE
WITH params AS (
    SELECT
        CASE
            WHEN scorer IN (SELECT s.scorer_id FROM scorers AS s) THEN scorer
            ELSE error(
                'unknown scorer ' || scorer || ' - known: '
                || coalesce(
                    (SELECT string_agg(s.scorer_id, ', ' ORDER BY s.scorer_id) FROM scorers AS s),
                    'none'
                )
            )
        END AS scorer_id
)

SELECT
    s.encoder_id,
    s.cutoff,
    s.aggregate,
    s.coef,
    s.intercept,
    s.calibration_slope,
    s.calibration_intercept,
    s.min_probability,
    s.max_probability,
    s.covariates_id,
    s.covariate_means,
    list_slice(s.coef, 1, len(s.coef) - 2 * coalesce(len(s.covariate_means), 0))
        AS coef_of_vector,
    list_slice(s.coef, len(s.coef) - 2 * len(s.covariate_means) + 1, len(s.coef))
        AS coef_of_design,
    flatten([[0.0, 1.0] FOR mean IN s.covariate_means]) AS all_missing
FROM params
LEFT JOIN scorers AS s ON params.scorer_id = s.scorer_id;

COMMENT ON MACRO TABLE scorer_parts IS
'scorer_parts(scorer): what are the coefficients of a scorer of?
One row: as in scorers, and coef_of_vector, coef_of_design (of its covariates), all_missing (the
design of an admission without covariates).';
