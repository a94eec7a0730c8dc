-- sync/unlinked_stays: which withdrawn stays does no row link to a patient?
--
-- Input:   withdrawn (hadm_id). Scores and training sets keep the patient of a stay.
-- Grain:   one row per stay (hadm_id).
CREATE OR REPLACE TEMP TABLE unlinked_stays AS
SELECT w.hadm_id
FROM withdrawn AS w
ANTI JOIN scores AS s ON w.hadm_id = s.hadm_id
ANTI JOIN scorer_admissions AS t ON w.hadm_id = t.hadm_id;
