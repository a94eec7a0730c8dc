"""Steps of a fine-tuning on disk, from which a killed run resumes."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from export.output_folder import locked_folder
from featurestore.errors import FeatureStoreError
from featurestore.store.files import clear, fsync


@contextlib.contextmanager
def resumable_folder(checkpoint: Path) -> Iterator[Path]:
    """The folder where a checkpoint is made, for this process alone; it stays until renamed.

    Its steps are read back as torch writes them, so nobody else may have written there: the folder
    must be ours and private.
    """
    with locked_folder(
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
