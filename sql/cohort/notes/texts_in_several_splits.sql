-- texts_in_several_splits: how many identical texts do patients of different splits have?
WITH shared_texts AS (
    SELECT text_hash
    FROM notes
    WHERE status = 'ready'
    GROUP BY text_hash
    HAVING count(DISTINCT patient_split(subject_id)) > 1
)

SELECT count(*)
FROM shared_texts;
