"""A stand-in for SQL Server: TDS 7.4 on loopback, T-SQL read by sqlglot and run in DuckDB.

Real are the driver, its wire format and types, and SQLAlchemy's dialect. Not real is the engine:
comparisons and conversions are DuckDB's, but `to_duckdb` refuses some of what SQL Server refuses.
Layouts and names are those of Microsoft's specification MS-TDS.
"""

import ctypes
import datetime
import json
import os
import re
import socketserver
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self, TextIO

import duckdb
import sqlglot
from sqlglot import exp

ROOT = Path(__file__).resolve().parents[4]
MAX_PARAMETERS = 2_100
VERSION = "Microsoft SQL Server 2022 (RTM) - 16.0.1000.6 (X64)"
PACKET_SIZE = 4_096
COLLATION = bytes.fromhex("0904d00034")
# DuckDB holds no half of a surrogate pair, and NVARCHAR does: this noncharacter is sent as one.
LONE_SURROGATE = "\ufdd0"

SQL_BATCH, RPC, ATTENTION, TRANSACTION, LOGIN, PRELOGIN = 0x01, 0x03, 0x06, 0x0E, 0x10, 0x12
DONE, DONE_PROCEDURE, DONE_IN_PROCEDURE = 0xFD, 0xFE, 0xFF
MORE_STATUS, ERROR_STATUS, COUNT_STATUS, ATTENTION_STATUS = 0x01, 0x02, 0x10, 0x20
SP_PREPEXEC, SP_UNPREPARE = 13, 15


class SqlServerError(Exception):
    """What the server answers to a statement: the number and text of an error."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(text)
        self.number = number


class TdsServer:
    """A server of the tables in a DuckDB file, as a process of its own.

    A thread would not do: the driver holds Python's lock while it waits for rows.
    """

    def __init__(self, file: Path, password: str = "secret") -> None:
        choose_driver()
        self._log = file.with_suffix(".statements")
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(file), str(self._log), password],
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.port = int(self._process.stdout.readline())
        self.url = f"mssql+mssqlpython://reader:{password}@127.0.0.1:{self.port}/clinic?Encrypt=no"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # it ends with its input

    def break_after(self, n_rows: int | None) -> None:
        """Break each connection after so many more rows of all statements; None for never."""
        self._process.stdin.write(f"{json.dumps(n_rows)}\n")
        self._process.stdin.flush()
        self._process.stdout.readline()

    def statements(self) -> list[tuple[str, list[Any]]]:
        """Return each statement that was sent, with its parameters."""
        return [tuple(json.loads(line)) for line in self._log.read_text().splitlines()]


def choose_driver() -> None:
    """Choose the driver of mssql-python that loads here: Microsoft's ODBC driver needs libltdl."""
    try:
        ctypes.CDLL("libltdl.so.7")
    except OSError:
        os.environ["MSSQL_PYTHON_NATIVE_PROVIDER"] = "mssql-odbc"


class Listener(socketserver.ThreadingTCPServer):
    """Listens in the process of the server; `rows_left` is how many rows it may still send."""

    daemon_threads = True

    def __init__(self, con: duckdb.DuckDBPyConnection, log: TextIO, password: str) -> None:
        super().__init__(("127.0.0.1", 0), Session)
        self.con, self.log, self.password = con, log, password
        self.rows_left: int | None = None


def main(file: str, log: str, password: str) -> None:
    """Serve a DuckDB file and print the port; read rows_left from standard input until it ends."""
    with (
        duckdb.connect(file, read_only=True) as con,
        Path(log).open("w", buffering=1) as stream,
        Listener(con, stream, password) as listener,
    ):
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        print(listener.server_address[1], flush=True)
        for line in sys.stdin:
            listener.rows_left = json.loads(line)
            print("set", flush=True)
        listener.shutdown()


class Session(socketserver.BaseRequestHandler):
    """One connection of a client."""

    server: Listener

    def handle(self) -> None:
        """Answer messages until the client goes, or the server is to break the connection."""
        self.con = self.server.con.cursor()
        replies: dict[int, Callable[[bytes], Iterator[bytes]]] = {
            PRELOGIN: self.prelogin,
            LOGIN: self.login,
            SQL_BATCH: self.batch,
            RPC: self.procedure,
            TRANSACTION: self.transaction,
            ATTENTION: lambda _: iter([done(status=ATTENTION_STATUS)]),
        }
        try:
            while True:
                kind, message = self.receive()
                self.send(replies[kind](message))
        except ConnectionError:
            pass

    def receive(self) -> tuple[int, bytes]:
        """Return the kind and content of the next message, which may come in several packets."""
        message, is_last = b"", 0
        while not is_last:
            kind, is_last, length = struct.unpack(">BBH4x", self.receive_exactly(8))
            message += self.receive_exactly(length - 8)
        return kind, message

    def receive_exactly(self, n_bytes: int) -> bytes:
        received = b""
        while len(received) < n_bytes:
            part = self.request.recv(n_bytes - len(received))
            if not part:
                raise ConnectionError
            received += part
        return received

    def send(self, tokens: Iterator[bytes]) -> None:
        """Send tokens as packets, each as soon as it is full."""
        buffer, number, size = b"", 1, PACKET_SIZE - 8
        for token in tokens:
            buffer += token
            while len(buffer) > size:
                self.send_packet(buffer[:size], number)
                buffer, number = buffer[size:], number + 1
        self.send_packet(buffer, number, is_last=True)

    def send_packet(self, content: bytes, number: int, is_last: bool = False) -> None:
        header = struct.pack(">BBHHBB", 4, is_last, len(content) + 8, 0, number % 256, 0)
        self.request.sendall(header + content)

    def prelogin(self, _: bytes) -> Iterator[bytes]:
        """Agree on a version of the protocol and on no encryption (option 1, value 2)."""
        options = {0: b"\x10\x00\x03\xe8\x00\x00", 1: b"\x02", 2: b"\x00", 3: b"", 4: b"\x00"}
        header, values = b"", b""
        for option, value in options.items():
            offset = 5 * len(options) + 1 + len(values)
            header += struct.pack(">BHH", option, offset, len(value))
            values += value
        yield header + b"\xff" + values

    def login(self, message: bytes) -> Iterator[bytes]:
        """Accept the password, which a client hides by swapping half bytes and an XOR with A5."""
        offset, length = struct.unpack_from("<HH", message, 44)
        hidden = (byte ^ 0xA5 for byte in message[offset : offset + 2 * length])
        password = bytes((byte << 4 | byte >> 4) & 0xFF for byte in hidden).decode("utf-16-le")
        if password != self.server.password:
            yield error(SqlServerError(18456, "Login failed for user 'reader'."))
            yield done(status=ERROR_STATUS)
            return
        yield environment(1, short_text("clinic"), short_text("master"))
        yield environment(7, b"\x05" + COLLATION)
        yield environment(4, short_text(str(PACKET_SIZE)), short_text(str(PACKET_SIZE)))
        acknowledged = (
            b"\x01\x74\x00\x00\x04" + short_text("Microsoft SQL Server") + b"\x10\x00\x03\xe8"
        )
        yield b"\xad" + with_length(acknowledged)
        yield done()

    def batch(self, message: bytes) -> Iterator[bytes]:
        """Run a statement that has no parameters."""
        (n_header_bytes,) = struct.unpack_from("<I", message)
        yield from self.run(message[n_header_bytes:].decode("utf-16-le"), [], DONE)

    def transaction(self, message: bytes) -> Iterator[bytes]:
        """Confirm that a transaction began (5), was committed (7) or was rolled back (8)."""
        (offset,) = struct.unpack_from("<I", message)
        (request,) = struct.unpack_from("<H", message, offset)
        descriptor = b"\x08" + struct.pack("<Q", 1)
        if request == 5:
            yield environment(8, descriptor)
        else:
            yield environment({7: 9, 8: 10}[request], b"\x00", descriptor)
        yield done()

    def procedure(self, message: bytes) -> Iterator[bytes]:
        """Run a statement with parameters, which a driver prepares and frees again."""
        number, arguments = read_call(message)
        if number == SP_PREPEXEC:
            _, _, statement, *parameters = arguments
            yield from self.run(statement, parameters, DONE_IN_PROCEDURE)
            yield returned_int(1)  # its handle
        elif number != SP_UNPREPARE:
            raise NotImplementedError(f"procedure {number}")
        yield b"\x79" + struct.pack("<i", 0)  # RETURNSTATUS
        yield done(DONE_PROCEDURE)

    def run(self, statement: str, parameters: list[Any], token: int) -> Iterator[bytes]:
        """Run a statement; yield its columns and rows, or an error."""
        print(json.dumps([statement, parameters], default=str), file=self.server.log)
        try:
            if len(parameters) > MAX_PARAMETERS:
                raise SqlServerError(8003, "Too many parameters were provided in this RPC request.")
            named = {f"P{number}": value for number, value in enumerate(parameters, 1)}
            query = to_duckdb(statement)
            try:
                self.con.execute(query, named)
                columns = [(name, *tds_type(kind)) for name, kind, *_ in self.con.description]
                rows = self.con.fetchall()
            except duckdb.Error as failure:
                raise sql_server_error(failure) from None
        except SqlServerError as refused:
            yield error(refused) + done(token, ERROR_STATUS)
            return
        yield b"\x81" + struct.pack("<H", len(columns))  # COLMETADATA
        for name, type_info, _ in columns:
            yield struct.pack("<IH", 0, 9) + type_info + short_text(name)
        for row in rows:
            self.count_row()
            values = zip(columns, row, strict=True)
            yield b"\xd1" + b"".join(encode(value) for (_, _, encode), value in values)
        yield done(token, COUNT_STATUS, len(rows))

    def count_row(self) -> None:
        """Break the connection where no more rows are to be sent."""
        if self.server.rows_left is not None:
            if self.server.rows_left == 0:
                raise ConnectionError
            self.server.rows_left -= 1


# --- T-SQL


def to_duckdb(statement: str) -> str:
    """Translate a statement; raise SqlServerError for what SQL Server does not understand."""
    tokens = sqlglot.tokenize(statement, read="tsql")
    for token in tokens:
        if token.token_type.name in ("LIMIT", "DPIPE"):
            raise syntax_error(token.text)
    tree = sqlglot.parse_one(statement.replace("@@version", f"'{VERSION}'"), read="tsql")
    for boolean in tree.find_all(exp.Boolean):
        raise SqlServerError(207, f"Invalid column name '{boolean.sql().upper()}'.")
    for select in tree.find_all(exp.Select):
        for column in select.selects:
            value = column.unalias()
            if isinstance(value, exp.Predicate | exp.Not | exp.And | exp.Or):
                raise syntax_error("=" if isinstance(value, exp.EQ) else "AS")
        if isinstance(select.parent, exp.Subquery):
            if select.args.get("with_"):
                raise SqlServerError(156, "Incorrect syntax near the keyword 'WITH'.")
            if select.args.get("order") and not select.args.get("limit"):
                raise SqlServerError(
                    1033,
                    "The ORDER BY clause is invalid in derived tables, unless TOP is specified.",
                )
    for cast in tree.find_all(exp.Cast):
        if cast.to.is_type("varbinary"):
            cast.replace(exp.Anonymous(this="encode", expressions=[cast.this]))
    query = tree.sql("duckdb")
    return re.sub(r"\bTEXT\(\w+\)", "TEXT", query)  # NVARCHAR(MAX)


def syntax_error(text: str) -> SqlServerError:
    return SqlServerError(102, f"Incorrect syntax near '{text}'.")


def sql_server_error(failure: duckdb.Error) -> SqlServerError:
    """Return SQL Server's error for one of DuckDB about a missing table or column."""
    if table := re.search(r"Table with name (\w+) does not exist", str(failure)):
        return SqlServerError(208, f"Invalid object name '{table[1]}'.")
    if column := re.search(
        r'column "?(?:\w+\.)?(\w+)"? not found|column named "(\w+)"', str(failure)
    ):
        return SqlServerError(207, f"Invalid column name '{column[1] or column[2]}'.")
    return SqlServerError(50000, f"{type(failure).__name__} in the stand-in.")


# --- tokens


def utf16(text: str) -> bytes:
    return text.replace(LONE_SURROGATE, "\ud83d").encode("utf-16-le", "surrogatepass")


def short_text(text: str) -> bytes:
    """Return a text of at most 255 characters after its length (B_VARCHAR)."""
    return bytes([len(text)]) + utf16(text)


def with_length(content: bytes) -> bytes:
    return struct.pack("<H", len(content)) + content


def done(token: int = DONE, status: int = 0, n_rows: int = 0) -> bytes:
    if token == DONE_IN_PROCEDURE:
        status |= MORE_STATUS  # the procedure itself ends after its statement
    return struct.pack("<BHHQ", token, status, 0xC1, n_rows)


def environment(kind: int, new: bytes, old: bytes = b"\x00") -> bytes:
    return b"\xe3" + with_length(bytes([kind]) + new + old)


def error(refused: SqlServerError) -> bytes:
    text = str(refused)
    return b"\xaa" + with_length(
        struct.pack("<iBB", refused.number, 1, 16)
        + struct.pack("<H", len(text))
        + utf16(text)
        + short_text("stand-in")
        + short_text("")
        + struct.pack("<i", 1)
    )


def returned_int(value: int) -> bytes:
    """Return the token for the output parameter of a procedure."""
    return (
        b"\xac" + struct.pack("<H", 0) + short_text("") + b"\x01" + struct.pack("<IH", 0, 0)
        + b"\x26\x04\x04" + struct.pack("<i", value)
    )  # fmt: skip


# --- values that the server sends


def tds_type(duckdb_type: Any) -> tuple[bytes, Callable[[Any], bytes]]:
    """Return the TYPE_INFO of a column and the function that encodes its values."""
    name = str(duckdb_type)
    if "INT" in name:
        return b"\x26\x08", nullable(lambda value: struct.pack("<q", value))
    if name.startswith("DECIMAL"):
        precision, scale = map(int, re.findall(r"\d+", name))
        return bytes([0x6C, 17, precision, scale]), nullable(
            lambda value: bytes([value >= 0]) + int(abs(value).scaleb(scale)).to_bytes(16, "little")
        )
    if name == "DATE":
        return b"\x28", nullable(days)
    if name == "TIMESTAMP":
        return b"\x2a\x07", nullable(lambda value: ticks(value) + days(value))
    if name == "BLOB":  # a text's bytes, which DuckDB has in UTF-8
        return b"\xa5\xff\xff", lambda value: long_text(None if value is None else value.decode())
    return b"\xe7\xff\xff" + COLLATION, long_text


def nullable(encode: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """Return a function that writes a value after its length in bytes, and NULL as length 0."""

    def encode_nullable(value: Any) -> bytes:
        if value is None:
            return b"\x00"
        content = encode(value)
        return bytes([len(content)]) + content

    return encode_nullable


def long_text(value: Any) -> bytes:
    """Return an NVARCHAR(MAX), or its bytes: the length, one chunk and an empty one."""
    if value is None:
        return b"\xff" * 8
    content = utf16(str(value))
    chunk = struct.pack("<I", len(content)) + content if content else b""
    return struct.pack("<Q", len(content)) + chunk + struct.pack("<I", 0)


def days(value: datetime.date) -> bytes:
    return (value.toordinal() - 1).to_bytes(3, "little")


def ticks(value: datetime.datetime) -> bytes:
    """Return the time of day in units of 100 nanoseconds."""
    seconds = (value.hour * 60 + value.minute) * 60 + value.second
    return (seconds * 10_000_000 + value.microsecond * 10).to_bytes(5, "little")


# --- parameters that a driver sends


def read_call(message: bytes) -> tuple[int, list[Any]]:
    """Return the number of the procedure that is called, and its arguments."""
    (at,) = struct.unpack_from("<I", message)
    length, number = struct.unpack_from("<HH", message, at)
    if length != 0xFFFF:
        raise NotImplementedError("procedures by name")
    at, arguments = at + 6, []
    while at < len(message):
        at += 2 + 2 * message[at]  # its name and flags
        value, at = read_value(message, at)
        arguments.append(value)
    return number, arguments


def read_value(message: bytes, at: int) -> tuple[Any, int]:
    """Return a value and the offset after it."""
    kind, at = message[at], at + 1
    if kind in (0xE7, 0xA7):  # NVARCHAR, VARCHAR
        content, at = read_text(message, at)
        encoding = "utf-16-le" if kind == 0xE7 else "latin-1"
        return None if content is None else content.decode(encoding), at
    if kind == 0x2A:  # DATETIME2
        at, scale = at + 1, message[at]
    elif kind == 0x26:  # integers, after their largest size
        at += 1
    elif kind != 0x28:  # DATE
        raise NotImplementedError(f"parameters of type {kind:#x}")
    length, at = message[at], at + 1
    content, at = message[at : at + length], at + length
    if not content:
        return None, at
    if kind == 0x26:
        return int.from_bytes(content, "little", signed=length > 1), at
    day = datetime.date.fromordinal(int.from_bytes(content[-3:], "little") + 1)
    if kind == 0x28:
        return day, at
    seconds = int.from_bytes(content[:-3], "little") / 10**scale
    midnight = datetime.datetime(day.year, day.month, day.day)
    return midnight + datetime.timedelta(seconds=seconds), at


def read_text(message: bytes, at: int) -> tuple[bytes | None, int]:
    """Return the bytes of a text and the offset after it; a long text comes in chunks."""
    (size,), at = struct.unpack_from("<H", message, at), at + 7
    if size != 0xFFFF:
        (length,), at = struct.unpack_from("<H", message, at), at + 2
        return (None, at) if length == 0xFFFF else (message[at : at + length], at + length)
    (total,), at = struct.unpack_from("<Q", message, at), at + 8
    if total == 2**64 - 1:
        return None, at
    content = b""
    while True:
        (length,), at = struct.unpack_from("<I", message, at), at + 4
        if not length:
            return content, at
        content, at = content + message[at : at + length], at + length


if __name__ == "__main__":
    main(*sys.argv[1:])
