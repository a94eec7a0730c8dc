-- sync/delete_admission_covariates: delete the covariates of withdrawn stays that no row links to a
-- patient.
--
-- Input:   withdrawn (hadm_id). Scores and training sets keep the patient of a stay.
DELETE FROM admission_covariates
WHERE
    hadm_id IN (SELECT hadm_id FROM withdrawn)
    AND hadm_id NOT IN (SELECT hadm_id FROM scores)
    AND hadm_id NOT IN (SELECT hadm_id FROM scorer_admissions);
