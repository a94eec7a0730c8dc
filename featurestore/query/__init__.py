"""The `sql` command: sandbox, execution, output formats and catalog."""
