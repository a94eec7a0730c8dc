-- scores_of_predicted_stays: which score has each predicted stay, if it was not fitted on?
--
-- Grain:   one row per stay that is predicted now (hadm_id).
-- Columns: scorer_id, hadm_id, subject_id, probability (NULL for patients of the training split).
-- Params:  scorer (scorer_id).
WITH fitted_patients AS (
    SELECT DISTINCT subject_id
    FROM scorer_admissions
    WHERE scorer_id = $scorer AND split = 'train'
)

SELECT
    CAST($scorer AS VARCHAR) AS scorer_id,
    a.hadm_id,
    a.subject_id,
    CASE
        WHEN
            patient_split(a.subject_id) <> 'train'
            AND a.subject_id NOT IN (SELECT f.subject_id FROM fitted_patients AS f)
            THEN s.probability
    END AS probability
FROM score_admissions($scorer) AS s
INNER JOIN admissions AS a ON s.hadm_id = a.hadm_id
