"""Private files that are complete or absent, durable copies, and locks between processes."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from featurestore.errors import FeatureStoreError
from featurestore.store import failpoints

_FICLONE = 0x40049409  # of Linux, as in linux/fs.h
_NO_COPY_RANGE = (errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP)


def create_private(path: Path) -> int:
    """Create a file that only its owner may read and return its descriptor.

    Raises FileExistsError if there is a file or a link of that name.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.fchmod(descriptor, 0o600)  # A strict umask may have removed the owner's rights too.
    return descriptor


@contextlib.contextmanager
def private_file(file: Path, **text: Any) -> Iterator[IO[Any]]:
    """Open a stream whose content becomes `file`, mode 0600, when the block ends without an error.

    The stream is binary unless `encoding` or `newline` is given.
    """
    draft = file.with_name(f".{file.name}.partial")
    # An existing one may be a link, or a file that others can read.
    draft.unlink(missing_ok=True)
    descriptor = create_private(draft)
    try:
        with os.fdopen(descriptor, "w" if text else "wb", **text) as stream:
            yield stream
            stream.flush()
            failpoints.hit("fsync")
            os.fsync(stream.fileno())
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def write_json(file: Path, values: dict[str, Any]) -> None:
    """Write a private JSON file that is complete or absent."""
    with private_file(file, encoding="utf-8") as stream:
        stream.write(json.dumps(values, indent=2) + "\n")


def private_folder(folder: Path) -> None:
    """Make a folder that only its owner may enter; restrict an existing one.

    Raises FeatureStoreError if the path is a link or a file.
    """
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if folder.is_symlink() or not folder.is_dir():
        raise FeatureStoreError(f"{folder} is not a folder - remove it, then run this again")
    folder.chmod(0o700)


def try_lock(descriptor: int) -> bool:
    """Lock an open file or folder for this process; return False if another process holds it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def copy(old: Path, new: Path) -> str:
    """Copy a file over a private one; return `reflink` if they share their blocks, else `bytes`."""
    with old.open("rb") as source, new.open("wb") as target:
        with contextlib.suppress(OSError):  # Most file systems cannot.
            fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
            return "reflink"
        try:
            while os.copy_file_range(source.fileno(), target.fileno(), 1 << 30):
                pass
        except (AttributeError, OSError) as error:
            # Not every system has it, nor every pair of file systems.
            if getattr(error, "errno", errno.ENOSYS) not in _NO_COPY_RANGE or target.tell():
                raise
            shutil.copyfile(old, new)
    return "bytes"


def fsync(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on disk."""
    failpoints.hit("fsync")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def clear(folder: Path) -> None:
    """Remove everything in a folder."""
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
