"""Vectors between numpy and Arrow, without copies."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def vectors_to_arrow(vectors: npt.NDArray[np.floating[Any]]) -> pa.FixedSizeListArray:
    """Return a matrix (rows, dim) as an Arrow column that DuckDB reads without copying."""
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])


def arrow_to_vectors(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.float32]:
    """Return a `FLOAT[dim]` column as a float32 matrix (rows, dim)."""
    dim = column.type.list_size
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim) for chunk in chunks]
    return np.concatenate(parts) if parts else np.empty((0, dim), np.float32)
