"""Compare the number, exclusions and vectors of a night's notes with those of 30 nights before."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from featurestore.store.vectors import arrow_to_vectors, vectors_to_arrow

NIGHTS = 30  # of the reference
MIN_NIGHTS = 5  # below it, nothing is checked
_MIN_NOTES = 20  # below it, neither the fraction of excluded notes nor the vectors are checked

_VOLUME = 5.0  # maximum ratio of the number of notes to the median, or of the median to it
_SHARE = 0.10  # maximum difference of shares of the notes, if it also exceeds
_SIGMAS = 4.0  # standard errors
_SHIFT = 0.5  # maximum distance of a category's mean from the reference, in units of its spread
_SPREAD = 2.0  # maximum ratio of a category's spread to the reference, or of the reference to it


@dataclass(frozen=True)
class Finding:
    """How a night differs from quiet ones."""

    check: str  # the same on each night
    text: str
    stops: bool  # wrong scores may be sent out; else it is a warning
    lasts: bool = False  # until the scorer is trained again, so --force accepts it for 30 nights


@dataclass
class VectorStats:
    """Mean and spread of vectors."""

    notes: int
    windows: int
    mean: npt.NDArray[np.float64]  # (dim,)
    spread: float  # root of the mean squared distance from the mean


class NightlyStats:
    """Mean and spread of a night's vectors by note category, accumulated in batches.

    `coefs` are the coefficients of scorers; `log_odds` has the notes by each of them.
    """

    def __init__(
        self,
        encoder_id: str,
        dim: int,
        coefs: Mapping[str, npt.NDArray[np.float64]] | None = None,
    ) -> None:
        self.encoder_id = encoder_id
        self.windows = 0
        self._coefs = coefs or {}
        self._log_odds: dict[str, list[pa.Table]] = {scorer_id: [] for scorer_id in self._coefs}
        self._totals: dict[str, list[Any]] = {}  # notes, windows, sum and sum of squares
        self._dim = dim

    def add(
        self, category: pa.ChunkedArray, window_no: pa.ChunkedArray, X: npt.NDArray[np.float32]
    ) -> None:
        """Add a batch of windows; X is (windows, dim)."""
        from scipy.sparse import csr_matrix

        self.windows += len(X)
        names, category_no = np.unique(
            np.array(pc.fill_null(category, "").to_pylist(), dtype=str), return_inverse=True
        )
        notes = np.bincount(category_no, window_no.to_numpy() == 0, len(names))
        windows = np.bincount(category_no, minlength=len(names))
        membership = csr_matrix((np.ones(len(X), np.float32), (category_no, np.arange(len(X)))))
        sums = membership @ X  # (categories, dim)
        squares = np.bincount(category_no, np.einsum("wd,wd->w", X, X), len(names))
        for no, name in enumerate(names.tolist()):
            totals = self._totals.setdefault(name, [0, 0, np.zeros(self._dim), 0.0])
            totals[0] += int(notes[no])
            totals[1] += int(windows[no])
            totals[2] += sums[no]
            totals[3] += float(squares[no])

    def add_log_odds(self, note_id: pa.ChunkedArray, X: npt.NDArray[np.float32]) -> None:
        """Add the mean log odds of the windows of each note; X is (windows, dim)."""
        for scorer_id, coef in self._coefs.items():
            windows = pa.table({"note_id": note_id, "log_odds": X @ coef})
            notes = windows.group_by("note_id").aggregate([("log_odds", "mean")])
            self._log_odds[scorer_id].append(notes.rename_columns(["note_id", "log_odds"]))

    def log_odds(self) -> dict[str, pa.Table]:
        """Return the log odds of each note (note_id, log_odds) by each scorer."""
        return {
            scorer_id: pa.concat_tables(tables)
            for scorer_id, tables in self._log_odds.items()
            if tables
        }

    def by_category(self) -> dict[str, VectorStats]:
        """Return the statistics of each note category; that of notes without one is ''."""
        stats = {}
        for name, (notes, windows, total, squares) in self._totals.items():
            mean = total / windows
            spread = float(np.sqrt(max(squares / windows - mean @ mean, 0.0)))
            stats[name] = VectorStats(notes, windows, mean, spread)
        return stats

    def record(self, con: duckdb.DuckDBPyConnection, run_id: int) -> None:
        """Store the statistics for the drift check of later nights."""
        for category, stats in self.by_category().items():
            mean = pa.table({"mean": vectors_to_arrow(stats.mean.astype(np.float32)[None, :])})
            con.register("tonight", mean)
            con.execute(
                "INSERT INTO nightly_embedding_stats "
                "SELECT $1, $2, $3, $4, $5, $6, mean FROM tonight",
                [run_id, self.encoder_id, category, stats.notes, stats.windows, stats.spread],
            )
            con.unregister("tonight")


def check_drift(
    con: duckdb.DuckDBPyConnection,
    stats: NightlyStats,
    seen: int,
    excluded: int,
    hours: float,
    vectors_stop: bool,
) -> list[Finding]:
    """Return how a night differs from the last ones; empty if it does not.

    `seen` is the number of notes that are new or changed, `excluded` how many of them are excluded,
    `hours` the time since the last night. `vectors_stop` is whether another mean of the vectors
    stops a night. Nothing is checked before five nights are recorded.
    """
    nights = con.execute(
        "SELECT CAST(counts ->> '$.seen' AS INTEGER), CAST(counts ->> '$.excluded' AS INTEGER) "
        "FROM runs WHERE command = 'nightly' ORDER BY run_id DESC LIMIT $1",
        [NIGHTS],
    ).fetchall()
    if len(nights) < MIN_NIGHTS:
        return []
    seen_before, excluded_before = zip(*nights, strict=True)
    return [
        *_volume_drift(seen, seen_before, hours),
        *_exclusion_drift(seen, excluded, sum(seen_before), sum(excluded_before)),
        *_vector_drift(con, stats, vectors_stop),
    ]


def _volume_drift(seen: int, seen_before: tuple[int, ...], hours: float) -> list[Finding]:
    usual = float(np.median(seen_before))
    if seen > usual * _VOLUME and seen - usual > _MIN_NOTES:
        text = f"{seen:,} notes are new or changed, usually {usual:,.0f}"
        return [Finding("more notes", text, stops=False)]
    # A second run within a day finds few notes, as expected.
    if seen < usual / _VOLUME and usual - seen > _MIN_NOTES and hours > 20:
        text = f"only {seen:,} notes are new or changed, usually {usual:,.0f}"
        return [Finding("fewer notes", text, stops=True)]
    return []


def _exclusion_drift(
    seen: int, excluded: int, seen_before: int, excluded_before: int
) -> list[Finding]:
    if min(seen, seen_before) < _MIN_NOTES:
        return []
    fraction, usual = excluded / seen, excluded_before / seen_before
    if not shares_differ(fraction, usual, seen, seen_before):
        return []
    text = f"{fraction:.0%} of the new or changed notes are excluded, usually {usual:.0%}"
    return [Finding("excluded notes", text, stops=fraction > usual)]


def shares_differ(share: float, usual: float, n: float, n_before: float) -> bool:
    """Return whether two shares differ by over 10 percentage points and 4 standard errors."""
    pooled = (share * n + usual * n_before) / (n + n_before)
    error = np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / n_before))
    return bool(abs(share - usual) > max(_SHARE, _SIGMAS * error))


def _vector_drift(
    con: duckdb.DuckDBPyConnection, stats: NightlyStats, stops: bool
) -> list[Finding]:
    """Return the categories whose mean or spread differs from that of the last nights."""
    findings = []
    for category, tonight in stats.by_category().items():
        nights = con.execute(
            "SELECT n_notes, n_windows, spread, embedding FROM nightly_embedding_stats "
            "WHERE (encoder_id, category) = ($1, $2) ORDER BY run_id DESC LIMIT $3",
            [stats.encoder_id, category, NIGHTS],
        ).to_arrow_table()
        notes = int(nights["n_notes"].to_numpy().sum())
        if len(nights) < MIN_NIGHTS or min(tonight.notes, notes) < _MIN_NOTES:
            continue
        weight = nights["n_windows"].to_numpy() / nights["n_windows"].to_numpy().sum()
        means = arrow_to_vectors(nights["embedding"]).astype(np.float64)  # (nights, dim)
        mean = weight @ means
        # Variance within nights plus variance between them: that of all their windows together.
        spread = np.sqrt(
            weight @ (nights["spread"].to_numpy() ** 2 + ((means - mean) ** 2).sum(axis=1))
        )
        shift = np.sqrt(((tonight.mean - mean) ** 2).sum()) / max(spread, 1e-12)
        # Windows of one note are alike, so the standard error counts notes.
        chance = _SIGMAS * np.sqrt(1 / tonight.notes + 1 / notes)
        name = category or "notes without a category"
        if shift > max(_SHIFT, chance):
            text = f"the mean vector of {name} moved by {shift:.2f} of the usual spread"
            findings.append(Finding(f"vectors of {name}", text, stops))
        ratio = tonight.spread / max(spread, 1e-12)
        if not 1 / _SPREAD <= ratio <= _SPREAD:
            text = f"the vectors of {name} have {ratio:.2f} times the usual spread"
            findings.append(Finding(f"spread of {name}", text, stops))
    return findings
