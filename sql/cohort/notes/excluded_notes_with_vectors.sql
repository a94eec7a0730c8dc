-- excluded_notes_with_vectors: how many excluded notes still have vectors?
SELECT count(DISTINCT e.note_id)
FROM embeddings AS e
INNER JOIN notes AS n ON e.note_id = n.note_id
WHERE n.status = 'excluded';
