"""Where a model is made: a private folder under another name, which a killed run leaves behind."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from featurestore.errors import FeatureStoreError, StoreBusyError
from featurestore.store.files import clear


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A private folder under another name, which becomes `folder` when the block ends well.

    What a killed job left there is cleared first. Raises StoreBusyError while another writes.
    """
    folder = folder.resolve()
    with locked_folder(
        folder.with_name(f".{folder.name}.half"),
        f"{folder} is being written by another job - wait until it has finished",
    ) as (draft, _):
        try:
            draft.chmod(0o700)
            clear(draft)
            yield draft
            draft.rename(folder)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise


@contextlib.contextmanager
def locked_folder(folder: Path, busy: str) -> Iterator[tuple[Path, os.stat_result]]:
    """A folder, made where it is not there, that this process alone holds, and what it is.

    Raises FeatureStoreError where it is no folder, and StoreBusyError where another holds it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        raise FeatureStoreError(f"{folder} is no folder - remove it") from None
    try:
        opened = os.fstat(descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The other one may have finished, and the folder have its name, since it was opened.
            ours = os.path.samestat(opened, folder.stat())
        except (BlockingIOError, FileNotFoundError):
            ours = False
        if not ours:
            raise StoreBusyError(busy)
        yield folder, opened
    finally:
        os.close(descriptor)
