"""Files that only their owner may read, whole or not there."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from featurestore.errors import FeatureStoreError
from featurestore.store import failpoints

_CANNOT = (errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP)


@contextlib.contextmanager
def private_file(file: Path, **text: Any) -> Iterator[IO[Any]]:
    """A stream whose content becomes `file`, mode 0600, when the block ends well.

    Binary, unless `encoding` or `newline` say that it is text.
    """
    draft = file.with_name(f".{file.name}.partial")
    # What lies there already may be somebody's link, or a file that others can read.
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w" if text else "wb", **text) as stream:
            yield stream
            stream.flush()
            failpoints.hit("fsync")
            os.fsync(stream.fileno())
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def private_folder(folder: Path) -> None:
    """Make a folder that only its owner may enter, or make it one where it is there already.

    Raises FeatureStoreError where a link is in its place.
    """
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if folder.is_symlink() or not folder.is_dir():
        raise FeatureStoreError(
            f"{folder} is no folder of its own - remove it, then run this again"
        )
    folder.chmod(0o700)


def copy(old: Path, new: Path) -> None:
    """Copy a file over a private one, by sharing its blocks where the file system can."""
    with old.open("rb") as source, new.open("wb") as target:
        try:
            while os.copy_file_range(source.fileno(), target.fileno(), 1 << 30):
                pass
        except (AttributeError, OSError) as error:
            # Not on every system, and not across every pair of file systems.
            if getattr(error, "errno", errno.ENOSYS) not in _CANNOT or target.tell():
                raise
            shutil.copyfile(old, new)


def fsync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    failpoints.hit("fsync")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def clear(folder: Path) -> None:
    """Remove all that lies in a folder."""
    for left in folder.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()
