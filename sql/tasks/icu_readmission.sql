-- icu_readmission: does the patient return to intensive care within the horizon after leaving it?
--
-- Outcome: returned to intensive care
-- Predicted when the first period of a stay in intensive care ends alive, by its end. Parts of it
-- that are at most an hour apart, as after a move to another unit, are one period. A return in a
-- later stay in hospital counts. Deaths within the horizon, without a return, are as in
-- readmission: negative, excluded or positive by $deaths.
WITH parts AS (
    SELECT
        *,
        coalesce(outtime, CAST('infinity' AS TIMESTAMP)) AS ended,
        max(ended) OVER (
            PARTITION BY subject_id
            ORDER BY intime, icu_stay_id
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) AS ended_before
    FROM icu_stays
),

numbered AS (
    SELECT
        *,
        count(*) FILTER (WHERE coalesce(intime > ended_before + INTERVAL 1 HOUR, TRUE))
            OVER (PARTITION BY subject_id ORDER BY intime, icu_stay_id) AS period
    FROM parts
),

periods AS (
    SELECT
        subject_id,
        arg_min(hadm_id, (intime, icu_stay_id)) AS hadm_id,
        min(intime) AS intime,
        nullif(max(ended), CAST('infinity' AS TIMESTAMP)) AS outtime,
        lead(min(intime)) OVER (PARTITION BY subject_id ORDER BY min(intime)) AS next_intime
    FROM numbered
    GROUP BY subject_id, period
),

first_periods AS (
    SELECT *
    FROM periods
    QUALIFY row_number() OVER (PARTITION BY hadm_id ORDER BY intime) = 1
),

outcomes AS (
    SELECT
        e.hadm_id,
        p.intime,
        p.outtime,
        p.next_intime,
        CASE
            WHEN e.died THEN coalesce(least(a.deathtime, e.discharge), CAST(e.dod AS TIMESTAMP))
            ELSE CAST(e.dod AS TIMESTAMP)
        END AS died_at,
        p.outtime + to_days(CAST($horizon_days AS INTEGER)) AS known_at,
        CASE
            WHEN e.exclusion_reason IS NOT NULL THEN e.exclusion_reason
            WHEN p.hadm_id IS NULL THEN 'no stay in intensive care'
            WHEN e.died AND died_at <= p.outtime + INTERVAL 1 HOUR THEN 'died in intensive care'
            WHEN p.outtime IS NULL AND e.died THEN 'died in intensive care'
            WHEN p.outtime IS NULL AND s.live THEN 'still in intensive care'
            WHEN p.outtime IS NULL THEN 'no end of intensive care'
        END AS not_an_index,
        coalesce(p.next_intime <= known_at, FALSE) AS returned,
        coalesce(
            NOT returned AND died_at > p.outtime AND died_at <= known_at, FALSE
        ) AS died_within_horizon,
        (NOT s.live AND s.observed_until IS NULL)
        OR coalesce(known_at <= s.observed_until, FALSE) AS mature
    FROM episodes AS e
    INNER JOIN admissions AS a ON e.hadm_id = a.hadm_id
    LEFT JOIN first_periods AS p ON e.hadm_id = p.hadm_id
    CROSS JOIN settings AS s
)

SELECT
    hadm_id,
    CASE
        WHEN not_an_index IS NOT NULL THEN NULL
        WHEN returned THEN TRUE
        WHEN died_within_horizon AND $deaths = 'positive' THEN TRUE
        WHEN died_within_horizon AND $deaths = 'excluded' THEN NULL
        WHEN mature THEN FALSE
    END AS label,
    CASE
        WHEN not_an_index IS NOT NULL THEN not_an_index
        WHEN died_within_horizon AND $deaths <> 'negative' THEN 'died after intensive care'
        WHEN label IS NULL THEN 'horizon not yet observed'
    END AS reason,
    CASE WHEN not_an_index IS NULL THEN known_at END AS known_at,
    CASE WHEN not_an_index IS NULL THEN outtime END AS prediction_time,
    CASE
        WHEN label AND returned THEN next_intime
        WHEN label THEN died_at
    END AS event_at,
    died_within_horizon
FROM outcomes
