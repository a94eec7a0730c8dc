-- changes/completeness($kind, $names): up to which run are all of these names complete?
--
-- Grain:   one row.
-- Columns: n_complete (names that were complete once), after (the run), observed_until (then),
--          all_changed (a run since changed most admissions), is_later (the source was observed
--          longer since), is_other (or until another time).
WITH complete AS (
    SELECT
        count(*) AS n_complete,
        min(run_id) AS after,
        min(observed_until) AS observed_until,
        max(observed_until) AS last_observed_until,
        count(observed_until) AS n_observed
    FROM up_to_date
    WHERE kind = $kind AND list_contains($names, name)
)

SELECT
    c.n_complete,
    c.after,
    c.observed_until,
    EXISTS (FROM changed_admissions WHERE run_id > c.after AND hadm_id IS NULL) AS all_changed,
    c.n_observed = c.n_complete
    AND coalesce(s.observed_until >= c.last_observed_until, FALSE) AS is_later,
    c.observed_until IS DISTINCT FROM s.observed_until OR c.n_observed NOT IN (0, c.n_complete)
        AS is_other
FROM complete AS c
CROSS JOIN settings AS s;
