"""The DuckDB file: its versions, schema, integrity, encryption and deletion of patients."""
