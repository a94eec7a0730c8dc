-- long_stay: does the stay last over 7 days?
--
-- Outcome: stayed over 7 days
-- A stay that ends in death before that is no long stay. The label of a short stay counts as known
-- after 7 days too: of the patients admitted last, only the short stays are known earlier.
SELECT
    e.hadm_id,
    CASE
        WHEN e.exclusion_reason IS NULL AND (e.discharge IS NOT NULL OR a.dischtime IS NULL)
            THEN
                CASE
                    WHEN e.discharge IS NOT NULL
                        THEN least(e.discharge, a.deathtime) > e.admittime + INTERVAL 7 DAYS
                    -- A patient who is still in hospital has stayed until now.
                    WHEN s.observed_until > e.admittime + INTERVAL 7 DAYS THEN TRUE
                END
    END AS label,
    CASE
        WHEN e.exclusion_reason IS NOT NULL THEN e.exclusion_reason
        WHEN a.dischtime < a.admittime THEN 'discharge before admission'
        WHEN label IS NULL AND s.live THEN 'still in hospital'
        WHEN label IS NULL THEN 'no discharge time'
        WHEN NOT label AND e.died THEN 'died within 7 days'
    END AS reason,
    e.admittime + INTERVAL 7 DAYS AS known_at,
    CASE WHEN label THEN e.admittime + INTERVAL 7 DAYS END AS event_at
FROM episodes AS e
INNER JOIN admissions AS a ON e.hadm_id = a.hadm_id
CROSS JOIN settings AS s
