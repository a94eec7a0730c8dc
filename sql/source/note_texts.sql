-- note_texts(note_ids): what are the texts of these notes?
--
-- Grain:   one row per note of canonical_notes, the CTE that Source makes of a schema's SELECT.
-- Columns: note_id (as text), text (empty where it is NULL).
-- Runs on the source's database, DuckDB or PostgreSQL.
SELECT
    CAST(note_id AS VARCHAR) AS note_id,
    coalesce(text, '') AS text
FROM canonical_notes
WHERE CAST(note_id AS VARCHAR) IN (SELECT unnest(CAST(:note_ids AS VARCHAR[])))
