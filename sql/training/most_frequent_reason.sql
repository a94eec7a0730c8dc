-- most_frequent_reason: why does no admission of an encoder have a label at a cutoff?
--
-- Grain:   at most one row: reason, number of admissions.
-- Params:  encoder, cutoff, labels (a SELECT).
SELECT
    CASE
        WHEN l.label IS NOT NULL AND NOT l.mature THEN 'horizon not yet observed'
        ELSE regexp_replace(coalesce(l.reason, 'labelled'), ' by \d+$', '')
    END AS reason,
    count(*) AS admissions
FROM admission_embeddings AS m
INNER JOIN query($labels) AS l USING (hadm_id)
WHERE (m.encoder_id, m.cutoff) = ($encoder, $cutoff)
GROUP BY ALL
ORDER BY admissions DESC, reason ASC
LIMIT 1
