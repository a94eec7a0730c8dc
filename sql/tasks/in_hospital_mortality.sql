-- in_hospital_mortality: did the patient die in this stay?
--
-- Outcome: died in hospital
-- The label counts as known 30 days after admission at the earliest: of the patients admitted last,
-- only the short stays are known earlier, and quick deaths among them.
SELECT
    e.hadm_id,
    CASE
        WHEN e.exclusion_reason IS NULL AND (e.died OR e.discharge IS NOT NULL) THEN e.died
    END AS label,
    CASE
        WHEN e.exclusion_reason IS NOT NULL THEN e.exclusion_reason
        WHEN a.dischtime < a.admittime AND NOT e.died THEN 'discharge before admission'
        WHEN label IS NULL AND s.live THEN 'still in hospital'
        WHEN label IS NULL THEN 'no discharge time'
    END AS reason,
    CASE
        WHEN e.discharge IS NOT NULL OR a.deathtime IS NOT NULL
            THEN greatest(coalesce(e.discharge, a.deathtime), e.admittime + INTERVAL 30 DAYS)
    END AS known_at,
    CASE WHEN label THEN least(a.deathtime, e.discharge) END AS event_at
FROM episodes AS e
INNER JOIN admissions AS a ON e.hadm_id = a.hadm_id
CROSS JOIN settings AS s
