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

from featurestore.errors import FeatureStoreError, StoreChangedWarning


def describe(error: BaseException, arguments: Sequence[str] = ()) -> str:
    """Return an exception as one line for the user, without data values.

    A file is named only if it exists or is one of the command's `arguments`, because a library may
    report a text as a file name.
    """
    if isinstance(error, FeatureStoreError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "stopped - the store is unchanged; run the command again to continue"
    if isinstance(error, OSError) and error.errno:
        where = f"{error.filename}: " if _is_file_name(error.filename, arguments) else ""
        return f"{where}{os.strerror(error.errno)} - fix this, then run the command again"
    if _is_damage(error):
        return (
            "the store is damaged - restore it from a backup "
            '("featurestore verify STORE" lists the damage)'
        )
    return f"{_kind_and_place(error)} - please report this"


def trace(error: BaseException) -> str:
    """Return the chained traceback of an exception, first cause first, without data values."""
    blocks: list[str] = []
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        blocks.append("\n".join([*_frames(following), _kind(following)]))
        if isinstance(following, BaseExceptionGroup):
            blocks += [trace(part) for part in reversed(following.exceptions)]
        # Errors that `from None` hides from the user are shown too: they help debugging.
        following = following.__cause__ or following.__context__
    return "\nwhich led to:\n".join(reversed(blocks))


def hide_values(debug: bool) -> None:
    """Remove data values from everything that Python and libraries write to stderr, from now on.

    With `debug`, show the kind and place of warnings, of log records from level WARNING, of errors
    in threads and finalizers, and the frames of a crash.
    """

    def print_error(error: BaseException | None) -> None:
        with contextlib.suppress(Exception):  # stderr may be closed already
            if debug and error is not None:
                print(trace(error), file=sys.stderr)
            message = describe(error) if error is not None else "unknown error"
            print(f"Error: {message}", file=sys.stderr)

    def show_warning(
        message: Any, category: type, filename: str, lineno: int, file: Any = None, line: Any = None
    ) -> None:
        if issubclass(category, StoreChangedWarning):
            print(f"warning: {message}", file=sys.stderr)
        elif debug:
            print(f"{category.__name__} in {filename}, line {lineno}", file=sys.stderr)

    def redacted_record(
        name: str, level: int, file: str, line: int, *_: Any, **__: Any
    ) -> logging.LogRecord:
        message = f"{name} logged a message in {file}, line {line}"
        return logging.LogRecord(name, level, file, line, message, None, None)

    sys.excepthook = lambda _, error, __: print_error(error)
    threading.excepthook = lambda thread: print_error(thread.exc_value)
    # Python ignores errors in finalizers, such as those of drivers whose connection is lost.
    sys.unraisablehook = lambda unraisable: print_error(unraisable.exc_value) if debug else None
    warnings.showwarning = show_warning
    warnings.filterwarnings("default", category=StoreChangedWarning)  # also with PYTHONWARNINGS
    logging.setLogRecordFactory(redacted_record)
    logging.disable(logging.NOTSET if debug else logging.CRITICAL)
    _mute_native_code()
    if debug:
        with contextlib.suppress(io.UnsupportedOperation):
            faulthandler.enable(sys.stderr)


def _mute_native_code() -> None:
    """Discard what native code writes to stderr; Python still writes to the original stderr.

    A Rust library that panics prints the text that caused the panic before Python can catch it.
    """
    try:
        if sys.stderr.fileno() != 2:
            return
    except (AttributeError, OSError):  # there is no stderr, or it is not a file
        return
    stderr_copy = os.dup(2)
    sys.stderr = os.fdopen(
        stderr_copy, "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace"
    )
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)
    os.close(devnull)


def _kind(error: BaseException) -> str:
    kind = type(error)
    is_builtin = kind.__module__ == "builtins"
    name = kind.__qualname__ if is_builtin else f"{kind.__module__}.{kind.__qualname__}"
    return f"{name}: {error}" if isinstance(error, FeatureStoreError) else name


def _frames(error: BaseException) -> Iterator[str]:
    lines = (
        f"  {frame.f_code.co_filename}, line {line}, in {frame.f_code.co_qualname}"
        for frame, line in traceback.walk_tb(error.__traceback__)
    )
    for line, same in itertools.groupby(lines):
        yield line
        if repeats := len(list(same)) - 1:
            yield f"    repeated {repeats} more times"


def _is_damage(error: BaseException) -> bool:
    """Return whether DuckDB reports a damaged block."""
    if not type(error).__module__.endswith("duckdb"):
        return False
    from featurestore.store.database import is_damage  # DuckDB is loaded by now

    return is_damage(error)


def _kind_and_place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    place = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}"


def _is_file_name(name: object, arguments: Sequence[str]) -> bool:
    """Return whether this is an existing file, or belongs to a file named in the arguments."""
    if not isinstance(name, str | bytes | os.PathLike):
        return False
    if os.path.lexists(name):
        return True
    path = Path(os.fsdecode(name))
    return any(
        path.parent == argument.parent
        and re.fullmatch(rf"\.?{re.escape(argument.name)}(\.\w+)*", path.name)
        for argument in map(Path, arguments)
    )
