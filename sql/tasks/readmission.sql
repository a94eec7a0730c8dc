-- readmission: did the patient return unplanned within the horizon?
--
-- Outcome: returned
SELECT
    hadm_id,
    label,
    reason,
    mature_at AS known_at,
    CASE WHEN label THEN known_at END AS event_at,
    died_within_horizon
FROM readmission_labels(
    horizon_days := $horizon_days,
    min_age := $min_age,
    planned_types := $planned_types,
    same_day := $same_day,
    deaths := $deaths
)
