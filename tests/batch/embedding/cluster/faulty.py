"""The command line with workers that fail in a given way.

`python -m tests.batch.embedding.cluster.faulty FAULT ARGUMENTS...` runs a command of featurestore
with workers of the class FAULT, or with "none" of the faults.
"""

import logging
import os
import signal
import sys
import warnings
from dataclasses import replace
from pathlib import Path

from batch.embedding.cluster.worker import EmbeddingWorker, ModelNeeded

POISON = os.environ.get("POISON", "poisonedword")  # in the note that a worker cannot take


class KilledByANote(EmbeddingWorker):
    """A worker that dies when it tokenizes a certain note."""

    def open(self, job, files=None):
        answer = super().open(job, files)
        tokenize = self.encoder.tokenize

        def fatal(texts):
            if any(POISON in text for text in texts):
                os.kill(os.getpid(), signal.SIGKILL)
            return tokenize(texts)

        self.encoder.tokenize = fatal
        return answer


class Talkative(EmbeddingWorker):
    """A worker that prints and logs every text, and then fails with it."""

    def open(self, job, files=None):
        answer = super().open(job, files)

        def talk(texts):
            print(*texts, flush=True)
            print(*texts, file=sys.stderr, flush=True)
            os.write(1, texts[0].encode())
            os.write(2, texts[0].encode())
            logging.getLogger("ray").error(texts[0])
            logging.getLogger().critical(texts[0])
            warnings.warn(texts[0], stacklevel=1)
            raise ValueError(texts[0])

        self.encoder.tokenize = talk
        return answer


class DiesAtOnce(EmbeddingWorker):
    """A worker that dies when it loads the model."""

    def open(self, job, files=None):
        os.kill(os.getpid(), signal.SIGKILL)


class DiesOfAnyNote(EmbeddingWorker):
    """A worker that dies of every note."""

    def embed(self, to_embed):
        yield os.kill(os.getpid(), signal.SIGKILL)


class Elsewhere(EmbeddingWorker):
    """A worker on a machine that does not have the model folder."""

    def open(self, job, files=None):
        if files is None:
            answer = super().open(replace(job, model=f"{job.model}-elsewhere"))
            assert isinstance(answer, ModelNeeded)
            return answer
        return super().open(replace(job, model="/nowhere"), files)


class AnotherModel(EmbeddingWorker):
    """A worker that has another model at the same place."""

    def open(self, job, files=None):
        return super().open(replace(job, model=os.environ["ANOTHER_MODEL"]), files)


class AnotherVersion(EmbeddingWorker):
    """A worker with another version of this project."""

    def open(self, job, files=None):
        return super().open(replace(job, version="0.0.1"), files)


class NoSource(EmbeddingWorker):
    """A worker that cannot see the source."""

    def open(self, job, files=None):
        return super().open(replace(job, location=str(Path(job.location) / "nowhere")), files)


if __name__ == "__main__":
    from batch.embedding.cluster import distribution
    from featurestore.cli import main
    from tests.batch.embedding.cluster import faulty

    if sys.argv[1] == "another ray":
        import ray

        ray.__version__ = "2.1.0"
    elif sys.argv[1] == "no room":
        distribution._PLACEMENT_SECONDS = distribution._POLL_SECONDS = 2
        resources = distribution._Resources("cpu", 1, {"num_cpus": 999}, 1)
        distribution.RayWorkers.resources = lambda *_: resources
    elif sys.argv[1] != "none":
        distribution.WORKER = getattr(faulty, sys.argv[1])
    main(sys.argv[2:])
