-- changes/completeness($kind, $names): up to which run are all of these names complete?
--
-- Grain:   one row.
-- Columns: n_complete (names that were complete once), after (the run), observed_then,
--          all_changed (a run since changed most admissions), is_other (the source was observed
--          until another time then), is_later (it is observed longer now).
WITH complete AS (
    SELECT
        count(*) AS n_complete,
        count(observed_until) AS n_observed,
        min(run_id) AS after,
        min(observed_until) AS first_observed,
        max(observed_until) AS last_observed
    FROM up_to_date
    WHERE kind = $kind AND list_contains($names, name)
)

SELECT
    c.n_complete,
    c.after,
    c.first_observed AS observed_then,
    (
        SELECT count(*) > 0 FROM changed_admissions AS a
        WHERE a.run_id > c.after AND a.hadm_id IS NULL
    ) AS all_changed,
    (
        c.n_observed NOT IN (0, c.n_complete)
        OR coalesce(c.first_observed <> s.observed_until, FALSE)
        OR coalesce(c.last_observed <> s.observed_until, FALSE)
        OR (c.n_observed = 0) <> (s.observed_until IS NULL)
    ) AS is_other,
    (
        c.n_observed = c.n_complete AND coalesce(s.observed_until >= c.last_observed, FALSE)
    ) AS is_later
FROM complete AS c
CROSS JOIN settings AS s;
