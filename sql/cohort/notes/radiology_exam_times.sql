-- radiology_exam_times: how many radiology reports count as known at the time of the exam?
SELECT count(*)
FROM notes
WHERE status = 'ready' AND time_basis = 'charttime' AND category ILIKE 'radiology%';
