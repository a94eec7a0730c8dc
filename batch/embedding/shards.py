"""Windows on their way into the store: shards that survive a kill, and vectors as Arrow columns."""

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from batch.embedding.encoder import Windows
from featurestore.store import failpoints
from featurestore.store.files import private_file, private_folder
from featurestore.store.shard_seal import SUFFIX, ShardSeal

_BYTES_AT_ONCE = 64_000_000


class Shards:
    """Finished windows that wait for the commit, in the private staging folder.

    Each is a Parquet file in an seal of the store's, whose folder is named for the encoder.
    """

    def __init__(self, folder: Path, seal: ShardSeal) -> None:
        self.folder = folder
        self._envelope = seal
        self._next = max((int(file.stem) for file in self.files()), default=-1) + 1

    def files(self) -> list[Path]:
        """The whole shards, in the order they were written."""
        return sorted(self.folder.glob(f"{'[0-9]' * 6}{SUFFIX}"))

    def write(self, note_ids: list[str], hashes: list[str], windows: Windows) -> None:
        """Write a shard, durably: it is there whole or not at all."""
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
        written = io.BytesIO()
        # Floats have no repetitions to gain from: three times as fast without looking for any.
        pq.write_table(
            table, written, compression="none", use_dictionary=False, write_statistics=False
        )
        with private_file(file) as stream:
            stream.writelines(self._envelope.closed(file, written.getbuffer()))
        self._next += 1

    def tables(self) -> Iterator[pa.Table]:
        """The windows of some shards at a time: a commit's cost is by the window, not the shard."""
        held: list[pa.Table] = []
        for file in self.files():
            held.append(self._read(file))
            if sum(table.nbytes for table in held) >= _BYTES_AT_ONCE:
                yield pa.concat_tables(held)
                held = []
        if held:
            yield pa.concat_tables(held)

    def notes(self) -> pa.Table:
        """The notes that were finished: note_id and text_hash."""
        columns = ["note_id", "text_hash"]
        empty = pa.schema([(column, pa.string()) for column in columns]).empty_table()
        parts = (self._read(file, columns) for file in self.files())
        return pa.concat_tables([empty, *(part.group_by(columns).aggregate([]) for part in parts)])

    def _read(self, file: Path, columns: list[str] | None = None) -> pa.Table:
        return pq.read_table(pa.BufferReader(self._envelope.opened(file)), columns=columns)

    def clear(self) -> None:
        """Remove the shards, once they are committed."""
        failpoints.hit("clean")
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder.parent.is_dir() and not any(self.folder.parent.iterdir()):
            self.folder.parent.rmdir()


def vectors_to_arrow(vectors: npt.NDArray[np.float32]) -> pa.FixedSizeListArray:
    """A matrix (rows, dim) as an Arrow column that DuckDB reads without copying."""
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])


def arrow_to_vectors(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.float32]:
    """A `FLOAT[dim]` column as a matrix (rows, dim) float32."""
    dim = column.type.list_size
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim) for chunk in chunks]
    return np.concatenate(parts) if parts else np.empty((0, dim), np.float32)
