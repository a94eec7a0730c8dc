-- log_odds_of_held_out_notes: which log odds has each note of patients that nothing was fitted on?
--
-- Grain:   one row per embedded note (note_id): the mean over its windows of the inner product with
--          the coefficients, without the intercept.
-- Params:  scorer (scorer_id).
WITH held_out_stays AS (
    SELECT a.hadm_id
    FROM admissions AS a
    WHERE
        patient_split(a.subject_id) <> 'train'
        AND a.subject_id NOT IN (
            SELECT r.subject_id
            FROM scorer_admissions AS r
            WHERE r.scorer_id = $scorer AND r.split = 'train'
        )
)

SELECT
    e.note_id,
    avg(list_inner_product(e.embedding, s.coef_of_vector)) AS log_odds
FROM scorer_parts($scorer) AS s
INNER JOIN embeddings AS e ON s.encoder_id = e.encoder_id
WHERE e.hadm_id IN (SELECT h.hadm_id FROM held_out_stays AS h)
GROUP BY e.note_id
