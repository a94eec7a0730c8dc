-- notes_in_log_odds: whose notes are these, and may they count for a score?
--
-- Grain:   one row per note (note_id). Of a cutoff in hours after admission, notes known later are
--          left out; whether the stay will be long enough is not known yet.
-- Columns: hadm_id, subject_id, category ('' where there is none), known_on (a date), log_odds.
-- Params:  scorer (scorer_id).
-- Reads the relation note_log_odds (note_id, log_odds).
SELECT
    n.hadm_id,
    a.subject_id,
    coalesce(n.category, '') AS category,
    CAST(n.available_at AS DATE) AS known_on,
    v.log_odds
FROM note_log_odds AS v
INNER JOIN notes AS n ON v.note_id = n.note_id
INNER JOIN admissions AS a ON n.hadm_id = a.hadm_id
INNER JOIN scorers AS s ON s.scorer_id = $scorer
WHERE
    NOT regexp_full_match(s.cutoff, '\d+h')
    OR n.available_at
    <= a.admittime + to_hours(CAST(nullif(regexp_extract(s.cutoff, '^(\d+)h$', 1), '') AS INTEGER))
ORDER BY a.subject_id, n.hadm_id, v.note_id
