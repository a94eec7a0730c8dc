"""URLs of databases: the driver of each, and the secrets that a URL may hold."""

import os
import re
from pathlib import Path

import sqlalchemy as sa

from featurestore.errors import SourceError

# SQLAlchemy's name of a kind of database: the driver that this project was tested with, and the
# extra that installs it. A URL may name another driver, but PostgreSQL is read through psycopg.
DRIVERS = {
    "sqlite": ("sqlite", None),
    "postgresql": ("postgresql+psycopg", "postgres"),
    "mysql": ("mysql+pymysql", "mysql"),
    "mariadb": ("mariadb+pymysql", "mysql"),
    "mssql": ("mssql+mssqlpython", "mssql"),
    "oracle": ("oracle+oracledb", "oracle"),
    "snowflake": ("snowflake", "snowflake"),
    "bigquery": ("bigquery", "bigquery"),
    "databricks": ("databricks", "databricks"),
}
# Parameters of a URL that are secrets themselves, not names of files that hold them.
_SECRET = re.compile(
    r"password|passwd|pwd|passphrase|passcode|token|secret|api_?key|credentials_base64"
    r"|private_key$|^odbc_|connection_?string|^dsn$",
    re.IGNORECASE,
)


def parse_url(url: str) -> sa.URL:
    """Return a URL with the driver that is used for it; raise SourceError where it is invalid."""
    url = re.sub("^postgres(ql)?(\\+\\w+)?:", "postgresql+psycopg:", url)
    try:
        parsed = sa.make_url(url)
        backend = parsed.get_backend_name()
        # These are signs of a password that was parsed as something else: an @ in it splits the
        # URL there, and libpq reads a database name that contains = as parameters.
        database = "" if backend == "sqlite" else parsed.database or ""
        if "@" in (parsed.host or "") + database or (backend == "postgresql" and "=" in database):
            raise ValueError
    except (sa.exc.ArgumentError, ValueError):  # ValueError also for a port that is not a number
        raise SourceError(
            "the source is not a URL that SQLAlchemy can parse - write it as "
            "postgresql+psycopg://USER:PASSWORD@HOST/DATABASE, with %40 for an @ in the password"
        ) from None
    if backend not in DRIVERS:
        raise SourceError(
            f"{parsed.drivername} is not supported - use {', '.join(DRIVERS)}, or write the tables "
            "of another database as Parquet or CSV to a folder, and use that"
        )
    if backend == "sqlite" and parsed.database:
        parsed = parsed.set(database=str(Path(parsed.database).resolve()))
    return parsed.set(drivername=DRIVERS[backend][0]) if parsed.drivername == backend else parsed


def has_password(url: str) -> bool:
    """Return whether a URL holds a secret."""
    parsed = parse_url(url)
    return parsed.password is not None or any(map(_SECRET.search, parsed.query))


def without_password(url: str) -> str:
    """Return a URL with its driver and without its secrets; raise SourceError if it is invalid."""
    parsed = parse_url(url)
    return sa.URL.create(
        parsed.drivername,
        parsed.username,
        host=parsed.host,
        port=parsed.port,
        database=parsed.database,
        query={name: value for name, value in parsed.query.items() if not _SECRET.search(name)},
    ).render_as_string()


def public_location(location: str) -> str:
    """Return a location as it may be stored and displayed: absolute and without secrets."""
    return without_password(location) if "://" in location else str(Path(location).resolve())


def with_secrets(location: str) -> str:
    """Return a location with the secrets that FEATURESTORE_SOURCE holds for it.

    Raises SourceError where FEATURESTORE_SOURCE is set and names another location, which would
    otherwise be ignored.
    """
    complete = os.environ.get("FEATURESTORE_SOURCE", "")
    if not complete:
        return location
    if public_location(complete) != public_location(location):
        raise SourceError(
            f"FEATURESTORE_SOURCE is set to {public_location(complete)}, and this reads from "
            f'{public_location(location)} - unset it, or use "featurestore source STORE NEW" to '
            "read from another place"
        )
    return complete if "://" in location and not has_password(location) else location
