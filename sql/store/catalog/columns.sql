-- columns: the columns of the tables and views of the store, and what each is for.
--
-- Grain:   one row per column (table_name, column_name), in the order of the table.
SELECT
    table_name,
    column_name,
    data_type,
    comment
FROM duckdb_columns()
WHERE database_name = current_database()
ORDER BY table_name, column_index;
