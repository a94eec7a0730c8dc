"""Folders that appear complete or not at all, and folders that one process has locked."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from featurestore.errors import FeatureStoreError, StoreBusyError
from featurestore.store.files import clear, try_lock


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty private folder that is renamed to `folder` when the block succeeds.

    What a killed job left in it is removed first. Raises StoreBusyError while another process
    writes the same folder.
    """
    folder = folder.resolve()
    with locked_folder(
        folder.with_name(f".{folder.name}.partial"),
        f"{folder} is being written by another process - wait until it has finished",
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
def locked_folder(folder: Path, busy_message: str) -> Iterator[tuple[Path, os.stat_result]]:
    """Create a folder, or open an existing one, and lock it; yield it with its stat result.

    Raises FeatureStoreError where it is a link or a file, and StoreBusyError while another process
    has locked it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        raise FeatureStoreError(f"{folder} is not a folder - remove it") from None
    try:
        opened = os.fstat(descriptor)
        try:
            # Another process may have finished and renamed the folder since it was opened.
            locked = try_lock(descriptor) and os.path.samestat(opened, folder.stat())
        except FileNotFoundError:
            locked = False
        if not locked:
            raise StoreBusyError(busy_message)
        yield folder, opened
    finally:
        os.close(descriptor)
