-- repeated_notes: which embedded notes repeat the text of an earlier note of their admission?
--
-- Grain:   one row per encoder and note (encoder_id, note_id).
-- Text that is copied forward counts once in what a score is computed from: as the copy that was
-- known first, or the next one when that is withdrawn. Whichever copies a prediction may use, the
-- first is among them, so this does not depend on the cutoff.
CREATE OR REPLACE VIEW repeated_notes AS
WITH repeated_texts AS (
    SELECT
        hadm_id,
        text_hash
    FROM notes
    WHERE status = 'ready'
    GROUP BY hadm_id, text_hash
    HAVING count(*) > 1
)

SELECT
    e.encoder_id,
    n.note_id
FROM notes AS n
SEMI JOIN repeated_texts AS t ON n.hadm_id = t.hadm_id AND n.text_hash = t.text_hash
-- A copy that this encoder has not embedded does not count.
INNER JOIN embeddings AS e
    ON n.note_id = e.note_id AND n.text_hash = e.text_hash AND e.window_no = 0
WHERE n.status = 'ready'
QUALIFY row_number() OVER (
    PARTITION BY e.encoder_id, n.hadm_id, n.text_hash ORDER BY n.available_at, n.note_id
) > 1;

COMMENT ON VIEW repeated_notes IS
'Which embedded notes repeat the text of an earlier note of their admission?
One row per encoder and note (encoder_id, note_id). Their windows do not count again in means and
scores.';
