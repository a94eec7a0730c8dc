"""Shards: embedded windows in files that survive a kill, until a commit stores them."""

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from batch.embedding.encoder import Windows
from featurestore.store import failpoints
from featurestore.store.files import private_file, private_folder
from featurestore.store.integrity.shard_seal import SUFFIX, ShardSeal
from featurestore.store.vectors import vectors_to_arrow

_BATCH_BYTES = 64_000_000


class Shards:
    """The embedded windows of one encoder, in the private staging folder.

    Each shard is an Arrow file with the store's seal; the folder is named after the encoder.
    """

    def __init__(self, folder: Path, seal: ShardSeal) -> None:
        self.folder = folder
        self._seal = seal
        self._next = max((int(file.stem) for file in self.files()), default=-1) + 1

    def files(self) -> list[Path]:
        """Return the complete shards, in the order they were written."""
        return sorted(self.folder.glob(f"{'[0-9]' * 6}{SUFFIX}"))

    def write(self, note_ids: list[str], hashes: list[str], windows: Windows) -> None:
        """Write a shard durably and atomically."""
        for folder in (self.folder.parent, self.folder):
            private_folder(folder)
        file = self.folder / f"{self._next:06d}{SUFFIX}"
        table = pa.table(
            {
                "note_id": pa.array(note_ids, pa.string()).take(pa.array(windows.text_no)),
                "text_hash": pa.array(hashes, pa.string()).take(pa.array(windows.text_no)),
                "window_no": windows.window_no,
                "n_tokens": windows.n_tokens,
                "embedding": vectors_to_arrow(windows.vectors),
            }
        )
        failpoints.hit("shard")
        buffer = io.BytesIO()
        with pa.ipc.new_file(buffer, table.schema) as writer:
            writer.write_table(table)
        with private_file(file) as stream:
            stream.writelines(self._seal.seal(file, buffer.getbuffer()))
        self._next += 1

    def tables(self) -> Iterator[pa.Table]:
        """Yield the windows, many shards at a time: each INSERT has a fixed cost."""
        tables: list[pa.Table] = []
        for file in self.files():
            tables.append(self._seal.read_table(file))
            if sum(table.nbytes for table in tables) >= _BATCH_BYTES:
                yield pa.concat_tables(tables)
                tables = []
        if tables:
            yield pa.concat_tables(tables)

    def notes(self) -> pa.Table:
        """Return the notes whose windows are staged: note_id and text_hash."""
        columns = ["note_id", "text_hash"]
        empty = pa.schema([(column, pa.string()) for column in columns]).empty_table()
        parts = (self._seal.read_table(file).select(columns) for file in self.files())
        return pa.concat_tables([empty, *(part.group_by(columns).aggregate([]) for part in parts)])

    def clear(self) -> None:
        """Remove the shards after they are committed."""
        failpoints.hit("clean")
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder.parent.is_dir() and not any(self.folder.parent.iterdir()):
            self.folder.parent.rmdir()
