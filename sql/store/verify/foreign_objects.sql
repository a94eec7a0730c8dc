-- verify/foreign_objects($known): which views, macros and schemas did another program make?
--
-- Grain:   one row per object (name); $known are the views and macros of this program.
WITH objects AS (
    SELECT
        database_name,
        view_name AS name
    FROM duckdb_views()
    WHERE NOT internal
    UNION
    SELECT
        database_name,
        schema_name AS name
    FROM duckdb_schemas()
    WHERE NOT internal AND schema_name <> 'main'
    UNION
    SELECT
        database_name,
        function_name AS name
    FROM duckdb_functions()
    WHERE NOT internal
)

SELECT name
FROM objects
WHERE database_name = current_database() AND NOT list_contains($known, name)
ORDER BY name;
