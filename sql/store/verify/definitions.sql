-- verify/definitions: how are the tables, views, macros and schemas of this store defined?
--
-- Grain:   one row per object (name); of a macro with several forms, their definitions together.
WITH objects AS (
    SELECT
        database_name,
        table_name AS name,
        sql AS definition
    FROM duckdb_tables()
    WHERE NOT internal AND NOT temporary AND schema_name = 'main'
    UNION ALL
    SELECT
        database_name,
        view_name AS name,
        sql AS definition
    FROM duckdb_views()
    WHERE NOT internal AND NOT temporary
    UNION ALL
    SELECT
        database_name,
        function_name AS name,
        CAST((parameters, macro_definition) AS VARCHAR) AS definition
    FROM duckdb_functions()
    WHERE NOT internal
    UNION ALL
    SELECT
        database_name,
        schema_name AS name,
        'schema' AS definition
    FROM duckdb_schemas()
    WHERE NOT internal AND schema_name <> 'main'
)

SELECT
    name,
    string_agg(definition, ' ' ORDER BY definition) AS definitions
FROM objects
WHERE database_name = current_database()
GROUP BY name
ORDER BY name;
