"""Turn exceptions into messages that contain no data value.

Messages of library exceptions, warnings and log records may quote a note. Only their kind and
place are shown: file, line and function, but no line of source, which may hold a literal, and no
variable.
"""

import contextlib
import faulthandler
import io
import itertools
import logging
import os
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from featurestore.errors import FeatureStoreError


def sentence(error: BaseException, arguments: Sequence[str] = ()) -> str:
    """An exception as one line for the user, in which no value is quoted.

    `arguments` are those of the command: a file that they do not name, and that is not there, is
    not named either.
    """
    if isinstance(error, FeatureStoreError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "stopped - the store is as it was; run this again to go on"
    if isinstance(error, OSError) and error.errno:
        where = f"{error.filename}: " if _is_a_file(error.filename, arguments) else ""
        return f"{where}{os.strerror(error.errno)} - see to it, then run this again"
    if _is_damage(error):
        return 'the store is damaged: "featurestore verify STORE" says more - restore a backup'
    return f"{_kind_and_place(error)} - please report this"


def trace(error: BaseException) -> str:
    """The chained traceback of an exception, the first cause first, without a value."""
    blocks: list[str] = []
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        blocks.append("\n".join([*_frames(following), _kind(following)]))
        if isinstance(following, BaseExceptionGroup):
            blocks += [trace(part) for part in reversed(following.exceptions)]
        # What was hidden from the user by `from None` is what whoever debugs wants to see.
        following = following.__cause__ or following.__context__
    return "\nwhich led to:\n".join(reversed(blocks))


def hide_values(debug: bool) -> None:
    """Let nothing that Python or a library writes to stderr quote a value, from now on.

    With `debug` the kind and place of warnings, of log records from WARNING on and of errors in
    threads and in finalizers are told, and the frames of a crash.
    """

    def tell(error: BaseException | None) -> None:
        with contextlib.suppress(Exception):  # stderr may be gone by then
            if debug and error is not None:
                print(trace(error), file=sys.stderr)
            message = sentence(error) if error is not None else "unknown error"
            print(f"Error: {message}", file=sys.stderr)

    def show_warning(
        message: Any, category: type, filename: str, lineno: int, file: Any = None, line: Any = None
    ) -> None:
        if debug:
            print(f"{category.__name__} in {filename}, line {lineno}", file=sys.stderr)

    def record(
        name: str, level: int, file: str, line: int, *_: Any, **__: Any
    ) -> logging.LogRecord:
        hidden = f"{name} has something to say in {file}, line {line}"
        return logging.LogRecord(name, level, file, line, hidden, None, None)

    sys.excepthook = lambda _, error, __: tell(error)
    threading.excepthook = lambda thread: tell(thread.exc_value)
    sys.unraisablehook = lambda lost: tell(lost.exc_value)
    warnings.showwarning = show_warning
    logging.setLogRecordFactory(record)
    logging.disable(logging.NOTSET if debug else logging.CRITICAL)
    _mute_native_code()
    if debug:
        with contextlib.suppress(io.UnsupportedOperation):
            faulthandler.enable(sys.stderr)


def _mute_native_code() -> None:
    """Send what native code writes to stderr nowhere; Python's goes where it went.

    A Rust library that panics quotes the text that caused it before Python can catch the error.
    """
    try:
        if sys.stderr.fileno() != 2:
            return
    except (AttributeError, OSError):  # none, or no file
        return
    kept = os.dup(2)
    sys.stderr = os.fdopen(
        kept, "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace"
    )
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _kind(error: BaseException) -> str:
    kind = type(error)
    named = kind.__qualname__ if kind.__module__ == "builtins" else _full_name(kind)
    return f"{named}: {error}" if isinstance(error, FeatureStoreError) else named


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _frames(error: BaseException) -> Iterator[str]:
    lines = (
        f"  {frame.f_code.co_filename}, line {line}, in {frame.f_code.co_qualname}"
        for frame, line in traceback.walk_tb(error.__traceback__)
    )
    for line, same in itertools.groupby(lines):
        yield line
        if again := len(list(same)) - 1:
            yield f"    and {again} times more"


def _is_damage(error: BaseException) -> bool:
    """Whether DuckDB met a block that is not as it was written."""
    if not type(error).__module__.endswith("duckdb"):
        return False
    from featurestore.store.database import is_damage  # DuckDB is loaded by now

    return is_damage(error)


def _kind_and_place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    place = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}"


def _is_a_file(name: object, arguments: Sequence[str]) -> bool:
    """Whether this is a file's name: a library that takes a text for one puts it into its error."""
    if not isinstance(name, str | bytes | os.PathLike):
        return False
    if os.path.lexists(name):
        return True
    path = Path(os.fsdecode(name))
    return any(
        path.parent == given.parent
        and re.fullmatch(rf"\.?{re.escape(given.name)}(\.\w+)*", path.name)
        for given in map(Path, arguments)
    )
