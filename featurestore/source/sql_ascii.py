"""The texts of a PostgreSQL database with the encoding SQL_ASCII, which may hold any bytes."""

from psycopg.abc import Buffer
from psycopg.adapt import Loader

from featurestore.source.note_texts import utf8_or_bytes


class Utf8OrBytes(Loader):
    """Return a text as str if it is UTF-8, else as bytes."""

    def load(self, data: Buffer) -> str | bytes:
        """Convert one value."""
        return utf8_or_bytes(bytes(data))
