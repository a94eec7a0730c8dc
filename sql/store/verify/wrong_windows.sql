-- verify/wrong_windows($cutoff): how many means of a cutoff are not of the windows that are known?
--
-- Grain:   one row. Stays that changed since the means were computed are left out.
WITH stored AS (
    SELECT * EXCLUDE (vector_hash, embedding)
    FROM admission_embeddings
    WHERE cutoff = $cutoff
),

known AS (
    SELECT *
    FROM admission_windows(cutoff := $cutoff)
)

SELECT count(*)
FROM stored AS s
FULL JOIN known AS k ON s.encoder_id = k.encoder_id AND s.hadm_id = k.hadm_id
WHERE
    (s.windows_hash, s.prediction_time, s.n_notes, s.n_windows)
    IS DISTINCT FROM (k.windows_hash, k.prediction_time, k.n_notes, k.n_windows)
    AND coalesce(s.hadm_id, k.hadm_id) NOT IN (SELECT c.hadm_id FROM changed_stays AS c);
