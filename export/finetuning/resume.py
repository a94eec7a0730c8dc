"""Steps of a fine-tuning run on disk, from which a killed run resumes."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from export.output_folder import locked_folder
from featurestore.errors import FeatureStoreError
from featurestore.store.files import clear, write_json


@contextlib.contextmanager
def resumable_folder(checkpoint: Path) -> Iterator[Path]:
    """Lock and yield the folder in which a checkpoint is written until it is renamed.

    The steps in it are deserialized by torch, so nobody else may have written them. Raises
    FeatureStoreError unless the folder is private to this user, and StoreBusyError while another
    process has locked it.
    """
    with locked_folder(
        checkpoint.resolve().parent / f".{checkpoint.name}.training",
        f"{checkpoint} is being written by another featurestore finetune - wait until it has "
        "finished, or choose another folder",
    ) as (folder, opened):
        if opened.st_uid != os.getuid() or opened.st_mode & 0o077:
            raise FeatureStoreError(
                f"{folder} is not private to this user (mode 0700), so others may have changed the "
                "files in it - remove it"
            )
        try:
            yield folder
        finally:
            with contextlib.suppress(OSError):
                folder.rmdir()  # if it is empty


def newest_step(folder: Path, plan: dict[str, Any]) -> Path | None:
    """Return the newest complete step of this plan; remove incomplete ones and other plans'."""
    steps = folder / "steps"
    if read_json(steps / "plan.json") != plan:
        clear(folder)
        steps.mkdir()
        write_json(steps / "plan.json", plan)
    complete = {}
    for step in steps.glob("checkpoint-*"):
        state = read_json(step / "trainer_state.json")  # the Trainer writes this file last
        # The best step is recorded by its absolute path, which is wrong in a folder that was moved.
        if state and Path(state["best_model_checkpoint"] or step).parent == steps:
            complete[state["global_step"]] = step
        else:
            shutil.rmtree(step)
    return complete[max(complete)] if complete else None


def read_json(file: Path) -> dict[str, Any] | None:
    """Return the content of a JSON file; None where it is missing or invalid."""
    try:
        content: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return content
