"""Is tonight like other nights? What would stop a commit, a sentence each."""

from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batch.embedding.shards import arrow_to_vectors, vectors_to_arrow

NIGHTS = 30  # that tonight is compared with
_FEWEST_NIGHTS = 5  # before there is a "usual"
_FEWEST_NOTES = 20  # of a category, or of a night, before its mean or share says anything

_VOLUME = 5.0  # times more, or fewer, notes than the median night
_SHARE = 0.10  # points of excluded notes, and
_SIGMAS = 4.0  # standard errors, away from the last nights'
SHIFT = 0.5  # of the usual spread, by which a category's mean may move
_SPREAD = 2.0  # times wider or narrower than usual


@dataclass
class _Vectors:
    """What some vectors are like, without the vectors."""

    notes: int
    windows: int
    mean: npt.NDArray[np.float64]  # (dim,)
    spread: float  # root of the mean squared distance from the mean


class NightlyStats:
    """Tonight's vectors by note category: counts, sums and squares, taken as they pass by."""

    def __init__(self, encoder_id: str, dim: int) -> None:
        self.encoder_id = encoder_id
        self.windows = 0
        self._sums: dict[str, list[Any]] = {}
        self._dim = dim

    def add(
        self, category: pa.ChunkedArray, window_no: pa.ChunkedArray, X: npt.NDArray[np.float32]
    ) -> None:
        """Take some windows in: X is (windows, dim)."""
        from scipy.sparse import csr_matrix

        self.windows += len(X)
        names, place = np.unique(
            np.array(pc.fill_null(category, "").to_pylist(), dtype=str), return_inverse=True
        )
        notes = np.bincount(place, window_no.to_numpy() == 0, len(names))
        windows = np.bincount(place, minlength=len(names))
        of_category = csr_matrix((np.ones(len(X), np.float32), (place, np.arange(len(X)))))
        totals = of_category @ X  # (categories, dim)
        squares = np.bincount(place, np.einsum("wd,wd->w", X, X), len(names))
        for no, name in enumerate(names.tolist()):
            sums = self._sums.setdefault(name, [0, 0, np.zeros(self._dim), 0.0])
            sums[0] += int(notes[no])
            sums[1] += int(windows[no])
            sums[2] += totals[no]
            sums[3] += float(squares[no])

    def by_category(self) -> dict[str, _Vectors]:
        """What tonight's vectors of each note category are like."""
        found = {}
        for name, (notes, windows, total, squares) in self._sums.items():
            mean = total / windows
            spread = float(np.sqrt(max(squares / windows - mean @ mean, 0.0)))
            found[name] = _Vectors(notes, windows, mean, spread)
        return found

    def record(self, con: duckdb.DuckDBPyConnection, run_id: int) -> None:
        """Keep tonight for the nights to come."""
        for category, vectors in self.by_category().items():
            mean = pa.table({"mean": vectors_to_arrow(vectors.mean.astype(np.float32)[None, :])})
            con.register("tonight", mean)
            con.execute(
                "INSERT INTO nightly_embedding_stats "
                "SELECT $1, $2, $3, $4, $5, $6, mean FROM tonight",
                [
                    *(run_id, self.encoder_id, category),
                    *(vectors.notes, vectors.windows, vectors.spread),
                ],
            )
            con.unregister("tonight")


def findings(
    con: duckdb.DuckDBPyConnection, night: NightlyStats, seen: int, excluded: int, hours: float
) -> list[str]:
    """What is unlike the last nights; none where all is as usual, or no usual is known yet.

    `seen` is how many notes are new or changed tonight, `excluded` how many of them are excluded,
    `hours` how long ago the last night was.
    """
    last = con.execute(
        """
        SELECT CAST(counts ->> '$.seen' AS INTEGER), CAST(counts ->> '$.excluded' AS INTEGER)
        FROM runs WHERE command = 'nightly' ORDER BY run_id DESC LIMIT $1
        """,
        [NIGHTS],
    ).fetchall()
    if len(last) < _FEWEST_NIGHTS:
        return []
    return [
        *_volume(seen, [notes for notes, _ in last], hours),
        *_excluded(seen, excluded, sum(n for n, _ in last), sum(x for _, x in last)),
        *_drift(con, night),
    ]


def _volume(seen: int, before: list[int], hours: float) -> list[str]:
    usual = float(np.median(before))
    if seen > usual * _VOLUME and seen - usual > _FEWEST_NOTES:
        return [f"{seen:,} notes are new or changed where {usual:,.0f} is usual"]
    # A second run within a day finds little, as it should.
    if seen < usual / _VOLUME and usual - seen > _FEWEST_NOTES and hours > 20:
        return [f"only {seen:,} notes are new or changed where {usual:,.0f} is usual"]
    return []


def _excluded(seen: int, excluded: int, seen_before: int, excluded_before: int) -> list[str]:
    if min(seen, seen_before) < _FEWEST_NOTES:
        return []
    share, usual = excluded / seen, excluded_before / seen_before
    pooled = (excluded + excluded_before) / (seen + seen_before)
    error = np.sqrt(pooled * (1 - pooled) * (1 / seen + 1 / seen_before))
    if abs(share - usual) > max(_SHARE, _SIGMAS * error):
        return [f"{share:.0%} of tonight's notes are excluded where {usual:.0%} is usual"]
    return []


def _drift(con: duckdb.DuckDBPyConnection, night: NightlyStats) -> list[str]:
    """Categories whose vectors lie elsewhere, or wider or closer together, than they used to."""
    found = []
    for category, tonight in night.by_category().items():
        before = con.execute(
            "SELECT n_notes, n_windows, spread, embedding FROM nightly_embedding_stats "
            "WHERE (encoder_id, category) = ($1, $2) ORDER BY run_id DESC LIMIT $3",
            [night.encoder_id, category, NIGHTS],
        ).to_arrow_table()
        notes = int(before["n_notes"].to_numpy().sum())
        if len(before) < _FEWEST_NIGHTS or min(tonight.notes, notes) < _FEWEST_NOTES:
            continue
        weight = before["n_windows"].to_numpy() / before["n_windows"].to_numpy().sum()
        means = arrow_to_vectors(before["embedding"]).astype(np.float64)  # (nights, dim)
        usual = weight @ means
        # Within nights and between them: as if all windows had been one night's.
        spread = np.sqrt(
            weight @ (before["spread"].to_numpy() ** 2 + ((means - usual) ** 2).sum(axis=1))
        )
        shift = np.sqrt(((tonight.mean - usual) ** 2).sum()) / max(spread, 1e-12)
        # Windows of a note are alike: chance is counted by notes.
        chance = _SIGMAS * np.sqrt(1 / tonight.notes + 1 / notes)
        name = category or "notes without a category"
        if shift > max(SHIFT, chance):
            found.append(f"vectors of {name} moved by {shift:.2f} of their usual spread")
        if not 1 / _SPREAD <= tonight.spread / max(spread, 1e-12) <= _SPREAD:
            found.append(
                f"vectors of {name} spread {tonight.spread / max(spread, 1e-12):.2f} times as "
                "wide as usual"
            )
    return found
