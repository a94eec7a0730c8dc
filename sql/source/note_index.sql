-- note_index: which notes does the source have, without their text?
--
-- Grain:   one row per note of canonical_notes, the CTE that Source makes of a schema's SELECT.
-- Columns: those of canonical_notes but the text; its MD5 as UTF-8, its length in characters, and
--          text_problem: 'empty text' where it is blank.
-- Params:  since (a date as text, or NULL for all notes), blanks (the characters of a blank text).
-- Runs on the source's database, DuckDB or PostgreSQL, so that no text is transferred. Times are
-- compared as text, which both write alike and which an invalid date cannot stop.
SELECT
    -- As note_texts has it: CHAR of PostgreSQL loses its blanks.
    CAST(note_id AS VARCHAR) AS note_id,
    subject_id,
    hadm_id,
    category,
    chartdate,
    charttime,
    storetime,
    is_error,
    md5(convert_to(coalesce(text, ''), 'UTF8')) AS text_hash,
    length(coalesce(text, '')) AS n_chars,
    -- The first characters of most texts show that they are not blank.
    CASE
        WHEN
            ltrim(substr(coalesce(text, ''), 1, 64), params.blanks) = ''
            AND ltrim(coalesce(text, ''), params.blanks) = ''
            THEN 'empty text'
    END AS text_problem
FROM canonical_notes
CROSS JOIN params
WHERE
    params.since IS NULL
    OR coalesce(
        nullif(CAST(storetime AS VARCHAR), ''),
        nullif(CAST(charttime AS VARCHAR), ''),
        nullif(CAST(chartdate AS VARCHAR), ''),
        params.since
    ) >= params.since
