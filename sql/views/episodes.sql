-- episodes: which stays follow each other without a break?
--
-- Grain:   one row per admission (hadm_id).
CREATE OR REPLACE VIEW episodes AS
FROM patient_episodes();

COMMENT ON VIEW episodes IS
'Which stays follow each other without a break?
One row per admission (hadm_id).';
COMMENT ON COLUMN episodes.exclusion_reason IS
'Why a stay is neither a return nor part of an episode, else NULL.';
COMMENT ON COLUMN episodes.discharge IS 'dischtime, unless it precedes the admission.';
COMMENT ON COLUMN episodes.died IS 'Whether the patient died in this stay.';
COMMENT ON COLUMN episodes.episode IS 'Number of the episode, per patient.';
COMMENT ON COLUMN episodes.continued_by IS 'The next stay of the episode; NULL for its last stay.';
COMMENT ON COLUMN episodes.episode_discharge IS
'Latest discharge of the episode; only for its last stay.';
COMMENT ON COLUMN episodes.episode_died IS
'Whether the patient died in the episode; only for its last stay.';
COMMENT ON COLUMN episodes.next_hadm_id IS 'First stay after the episode; only for its last stay.';
COMMENT ON COLUMN episodes.next_admittime IS 'Start of the first stay after the episode.';
COMMENT ON COLUMN episodes.next_planned IS 'Whether the first stay after the episode was planned.';
COMMENT ON COLUMN episodes.next_admission_type IS
'Type of the first stay after the episode.';
