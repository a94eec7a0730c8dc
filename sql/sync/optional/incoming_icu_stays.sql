-- incoming_icu_stays: the rows that the table icu_stays should have.
--
-- Grain:   one row per stay in intensive care (icu_stay_id).
-- Rule:    omitted are rows without a readable beginning, and those of an admission that is not in
--          the store or is another patient's.
CREATE TABLE incoming_icu_stays AS
SELECT
    CAST(i.icu_stay_id AS VARCHAR) AS icu_stay_id,
    a.hadm_id,
    a.subject_id,
    TRY_CAST(i.intime AS TIMESTAMP) AS intime,
    CASE
        WHEN TRY_CAST(i.outtime AS TIMESTAMP) >= TRY_CAST(i.intime AS TIMESTAMP)
            THEN TRY_CAST(i.outtime AS TIMESTAMP)
    END AS outtime,
    trim(CAST(i.care_unit AS VARCHAR)) AS care_unit
FROM all_icu_stays AS i
INNER JOIN incoming_admissions AS a
    ON i.hadm_id = a.hadm_id AND coalesce(i.subject_id, a.subject_id) = a.subject_id
WHERE
    i.icu_stay_id IS NOT NULL
    AND TRY_CAST(i.intime AS TIMESTAMP) IS NOT NULL
    AND NOT implausible_date(TRY_CAST(i.intime AS TIMESTAMP))
QUALIFY
    row_number() OVER (
        PARTITION BY i.icu_stay_id
        ORDER BY TRY_CAST(i.intime AS TIMESTAMP), TRY_CAST(i.outtime AS TIMESTAMP), a.hadm_id
    ) = 1;
