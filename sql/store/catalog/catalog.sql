-- catalog: the tables, views and macros of the store, and what each is for.
--
-- Grain:   one row per table, view or macro (name).
WITH objects AS (
    SELECT
        'table' AS kind,
        table_name AS name,
        [] AS parameters,
        comment
    FROM duckdb_tables()
    WHERE database_name = current_database()
    UNION ALL
    SELECT
        'view' AS kind,
        view_name AS name,
        [] AS parameters,
        comment
    FROM duckdb_views()
    WHERE database_name = current_database()
    UNION ALL
    SELECT
        replace(function_type, '_', ' ') AS kind,
        function_name AS name,
        parameters,
        comment
    FROM duckdb_functions()
    WHERE database_name = current_database()
)

SELECT
    kind,
    name,
    parameters,
    comment
FROM objects
ORDER BY list_position(['table', 'view', 'table macro', 'macro'], kind), name;
