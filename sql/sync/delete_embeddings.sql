-- sync/delete_embeddings: delete the vectors of withdrawn stays that no row links to a patient.
--
-- Input:   withdrawn (hadm_id). Scores and training sets keep the patient of a stay; so do notes,
--          such as one that was moved to another stay, whose vectors are still of use.
DELETE FROM embeddings
WHERE
    hadm_id IN (SELECT hadm_id FROM withdrawn)
    AND hadm_id NOT IN (SELECT hadm_id FROM scores)
    AND hadm_id NOT IN (SELECT hadm_id FROM scorer_admissions)
    AND note_id NOT IN (SELECT note_id FROM notes);
