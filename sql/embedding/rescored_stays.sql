-- rescored_stays: of which stays may a score differ, because their means changed?
--
-- Input:   outdated_means and missing_means.
-- Grain:   one row per mean (hadm_id).
-- Means at a cutoff that only a training needed do not count: no scorer has used them.
WITH used_cutoffs AS (
    SELECT name AS cutoff
    FROM up_to_date
    WHERE kind = 'means'
    UNION
    SELECT cutoff
    FROM scorers
),

means AS (
    SELECT
        hadm_id,
        cutoff
    FROM outdated_means
    UNION ALL
    SELECT
        hadm_id,
        cutoff
    FROM missing_means
)

SELECT m.hadm_id
FROM means AS m
SEMI JOIN used_cutoffs AS u ON m.cutoff = u.cutoff
SEMI JOIN kept_cutoffs AS k ON m.cutoff = k.cutoff
