"""Where a model is made: a private folder under another name, which a killed run leaves behind."""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from featurestore.errors import FeatureStoreError, StoreBusyError
from featurestore.files import clear, fsync


@contextlib.contextmanager
def half_made(folder: Path) -> Iterator[Path]:
    """A private folder under another name, which becomes `folder` when the block ends well.

    What a killed job left there is cleared first. Raises StoreBusyError while another writes.
    """
    folder = folder.resolve()
    with _held(
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
def unfinished(checkpoint: Path) -> Iterator[Path]:
    """The folder where a checkpoint is made, for this process alone; it stays until renamed.

    Its steps are read back as torch writes them, so nobody else may have written there: the folder
    must be ours and private.
    """
    with _held(
        checkpoint.resolve().parent / f".{checkpoint.name}.unfinished",
        f"{checkpoint} is being made by another featurestore finetune - wait until it has "
        "finished, or name another checkpoint",
    ) as (folder, opened):
        if opened.st_uid != os.getuid() or opened.st_mode & 0o077:
            raise FeatureStoreError(
                f"{folder} is not private to you (0700), so that others may have changed what "
                "would be loaded from it - remove it"
            )
        try:
            yield folder
        finally:
            with contextlib.suppress(OSError):
                folder.rmdir()  # where nothing was begun


@contextlib.contextmanager
def _held(folder: Path, busy: str) -> Iterator[tuple[Path, os.stat_result]]:
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


def newest_step(folder: Path, plan: dict[str, Any]) -> Path | None:
    """The newest whole step of this very run; what is half there, or another run's, is removed."""
    steps = folder / "steps"
    if read_json(steps / "plan.json") != plan:
        clear(folder)
        steps.mkdir()
        write_json(steps / "plan.json", plan)
    whole = {}
    for step in steps.glob("checkpoint-*"):
        state = read_json(step / "trainer_state.json")  # what the Trainer writes last
        # The best step so far is known by its full path, which is another once a folder was moved.
        if state and Path(state["best_model_checkpoint"] or step).parent == steps:
            whole[state["global_step"]] = step
        else:
            shutil.rmtree(step)
    return whole[max(whole)] if whole else None


def read_json(file: Path) -> dict[str, Any] | None:
    """What a JSON file holds; None where it is not there, or half written."""
    try:
        read: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return read


def write_json(file: Path, facts: dict[str, Any]) -> None:
    """Write a JSON file that is whole or not there."""
    draft = file.with_name(file.name + ".part")
    draft.write_text(json.dumps(facts, indent=2) + "\n")
    fsync(draft)
    draft.replace(file)
