-- outdated_admission_embeddings($scorer_id, $cutoff): how many of a scorer's admissions have an
-- embedding that is not the mean of the notes known at their prediction time?
SELECT count(*)
FROM scorer_admissions AS r
INNER JOIN scorers AS s ON r.scorer_id = s.scorer_id
INNER JOIN admission_embeddings AS m
    ON r.hadm_id = m.hadm_id AND s.encoder_id = m.encoder_id AND s.cutoff = m.cutoff
LEFT JOIN admission_windows(cutoff := $cutoff) AS w
    ON m.hadm_id = w.hadm_id AND m.encoder_id = w.encoder_id
WHERE r.scorer_id = $scorer_id AND m.windows_hash IS DISTINCT FROM w.windows_hash;
