-- death_or_readmission: did the patient return unplanned or die within the horizon?
--
-- Outcome: returned or died
-- The patients are those of readmission. A death with no return before it counts as the outcome.
SELECT
    hadm_id,
    label,
    reason,
    mature_at AS known_at,
    CASE WHEN label THEN known_at END AS event_at
FROM readmission_labels(
    horizon_days := $horizon_days,
    min_age := $min_age,
    planned_types := $planned_types,
    same_day := $same_day,
    deaths := 'positive'
)
