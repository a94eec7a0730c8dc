-- clinicalbert: did the patient return within the horizon, by the rule of ClinicalBERT?
--
-- Outcome: returned
SELECT
    hadm_id,
    label,
    reason,
    mature_at AS known_at,
    CASE WHEN label THEN known_at END AS event_at,
    died_within_horizon
FROM clinicalbert_labels(horizon_days := $horizon_days)
