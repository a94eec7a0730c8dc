"""What runs on a worker: an actor that opens the source and the model itself.

Note text stays in this process. An exception would carry its message, which may quote a note, to
Ray's logs and tables, so no method raises: each returns what went wrong as a sentence.
"""

import logging
import os
import socket
import sys
import tempfile
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from batch.embedding.chunks import EmbeddedNotes, embed_notes
from batch.embedding.encoder import OnnxEncoder
from featurestore.cli.redaction import describe, trace
from featurestore.errors import FeatureStoreError, ModelError
from featurestore.source.source import Source
from featurestore.version import __version__


@dataclass
class Job:
    """What a worker opens. `location` is complete: it may contain a password."""

    location: str = field(repr=False)
    schema: str
    model: str  # the folder
    encoder_id: str
    device: str
    threads: int
    version: str = __version__


@dataclass
class Opened:
    """A worker is ready; `provider` is what its model runs on."""

    provider: str


@dataclass
class ModelNeeded:
    """A worker cannot see the model folder: send its files."""


@dataclass
class Failure:
    """Why a worker cannot go on, without data values; `kind` is the name of an error class."""

    kind: str
    message: str
    trace: str


@dataclass
class Chunk:
    """Finished notes, with the numbers of tokens and of padding that the model saw."""

    notes: EmbeddedNotes
    tokens: int
    padding: int


class EmbeddingWorker:
    """A Ray actor that embeds parts of the notes; its methods return a Failure and never raise."""

    def __init__(self) -> None:
        _be_silent()

    def node(self) -> str:
        """Return the name of the machine, as soon as Ray has found a place for the actor."""
        return socket.gethostname()

    def open(
        self, job: Job, files: dict[str, bytes] | None = None
    ) -> Opened | ModelNeeded | Failure:
        """Open the source and the model; its `files` by name, if its folder is not on this machine.

        The job is an argument of a call because Ray keeps those in no table, log or environment.
        """
        try:
            if job.version != __version__:
                raise FeatureStoreError(
                    f"featurestore is {__version__} here and {job.version} where the store is - "
                    "install the same version on every node"
                )
            if files is None and not Path(job.model).is_dir():
                return ModelNeeded()
            _limit_threads(job.threads)
            os.environ.pop("FEATURESTORE_SOURCE", None)  # the location is complete
            self.source = Source(job.location, job.schema)
            self.encoder = _open_model(job, files)
            return Opened(self.encoder.provider)
        except BaseException as error:
            return _failure(error)

    def embed(self, to_embed: pa.Table) -> Generator[Chunk | Failure]:
        """Yield the notes of a part (note_id, text_hash) in chunks, in one pass over the source."""
        tokens = padding = 0

        def on_batch(batch_tokens: int, batch_padding: int) -> None:
            nonlocal tokens, padding
            tokens += batch_tokens
            padding += batch_padding

        try:
            for notes in embed_notes(self.source, self.encoder, to_embed, on_batch):
                yield Chunk(notes, tokens, padding)
                tokens = padding = 0
        except GeneratorExit:
            raise
        except BaseException as error:
            yield _failure(error)


def _open_model(job: Job, files: dict[str, bytes] | None) -> OnnxEncoder:
    """Load the model, whose files are compared with their hashes; raise ModelError for another."""
    with tempfile.TemporaryDirectory(prefix="featurestore-model-") as private:
        folder = Path(private) if files else Path(job.model)
        for name, content in (files or {}).items():
            (folder / name).write_bytes(content)
        encoder = OnnxEncoder(folder, job.device, job.threads)
    if encoder.id != job.encoder_id:
        raise ModelError(
            f"{job.model} is {encoder.id} here and {job.encoder_id} where the store is - copy the "
            "model folder to every node, or remove it there: then it is sent"
        )
    return encoder


def _limit_threads(threads: int) -> None:
    """Let the libraries use this worker's cores only; each would take those of all workers."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"):
        os.environ[name] = str(threads)


def _be_silent() -> None:
    """Discard whatever this process prints or logs: Ray would keep it in files."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(devnull, descriptor)
    os.close(devnull)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123
    logging.disable(logging.CRITICAL)


def _failure(error: BaseException) -> Failure:
    kind = type(error).__name__ if isinstance(error, FeatureStoreError) else "FeatureStoreError"
    return Failure(kind, describe(error), trace(error))
