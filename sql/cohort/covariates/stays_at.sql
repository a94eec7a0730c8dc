-- stays_at($t): leave of each stay what was known at a time, in a copy of a store.
UPDATE admissions
SET
    dischtime = CASE WHEN dischtime <= $t THEN dischtime END,
    deathtime = CASE WHEN deathtime <= $t THEN deathtime END,
    dod = CASE WHEN dod <= CAST($t AS DATE) THEN dod END,
    discharge_location = CASE WHEN dischtime <= $t THEN discharge_location END,
    died_in_hospital = died_in_hospital AND coalesce(coalesce(deathtime, dischtime) <= $t, FALSE)
