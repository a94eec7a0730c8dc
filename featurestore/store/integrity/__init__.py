"""Integrity of a store: checksums of its tables, the audit log, its seal and that of shards."""
