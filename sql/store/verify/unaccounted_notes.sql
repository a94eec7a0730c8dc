-- verify/unaccounted_notes: how many notes are neither ready nor excluded with a reason?
--
-- Grain:   one row.
SELECT count(*)
FROM notes
WHERE NOT coalesce(
    (status = 'ready' AND hadm_id IS NOT NULL)
    OR (status = 'excluded' AND reason IS NOT NULL),
    FALSE
);
