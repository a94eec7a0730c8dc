-- notes_without_time: how many notes have a date but no time?
SELECT count(*)
FROM notes
WHERE status = 'ready' AND time_basis = 'date';
