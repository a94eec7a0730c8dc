"""Performance in groups of patients, and how it differs from that of all others."""

from collections.abc import Mapping
from typing import Any, cast

import duckdb
import numpy as np
import numpy.typing as npt

from batch.training.calibration import Floats
from batch.training.intervals import Mask
from batch.training.metrics import is_alerted
from batch.training.performance.estimates import clustered_auroc, oe_ratio
from batch.training.performance.thresholds import alert_ppv, proportion, sensitivity
from featurestore.store.scorer_metrics import GroupEstimates, Interval, SubgroupMetrics
from featurestore.store.sql_files import read_sql


def subgroup_metrics(
    y: Mask,
    p: Floats,
    has_label: Mask,
    patient: npt.NDArray[Any],
    groups: Mapping[str, npt.NDArray[np.str_]],
    threshold: float,
) -> list[SubgroupMetrics]:
    """Return the metrics of each group, and their differences from all other stays.

    All arrays are (predicted stays,); `groups` gives the group of each stay by grouping. The
    comparison is with all others and not with the largest group, so that no group is the norm, and
    the largest one has a difference too. Stays without a label count in alerts and PPV only.
    """
    alerted = is_alerted(p, threshold)
    rows: list[SubgroupMetrics] = []
    for by, group_of in groups.items():
        for group in np.unique(group_of[has_label]).tolist():
            members = group_of == group
            ours = _metrics(y, p, has_label, alerted, patient, members)
            others = _metrics(y, p, has_label, alerted, patient, ~members)
            rows.append(
                {
                    "by": by,
                    "group": group,
                    "admissions": int((members & has_label).sum()),
                    "positive": int((members & y).sum()),
                    "alerts": int((members & alerted).sum()),
                    "threshold": threshold,
                    **ours,
                    "differences": _differences(ours, others),
                }
            )
    return rows


def groups_of(con: duckdb.DuckDBPyConnection) -> dict[str, npt.NDArray[np.str_]]:
    """Return the group of each admission by grouping, by hadm_id.

    The connection has a table training_admissions (hadm_id).
    """
    table = con.execute(read_sql("training/subgroups")).to_arrow_table()
    return {
        name: np.array([group or "not known" for group in table[name].to_pylist()], dtype=str)
        for name in table.column_names
    }


def difference(one: Interval, other: Interval) -> Interval:
    """Return the difference of two estimates of different stays, with its interval.

    Each limit is as far from the difference as the limits of both together (MOVER; Zou & Donner
    2008, doi 10.1002/sim.3095; of two proportions it is Newcombe's, doi
    10.1002/(SICI)1097-0258(19980430)17:8<873::AID-SIM779>3.0.CO;2-I).
    """
    if not one or not other or len(one) < 3 or len(other) < 3:
        return None
    below = np.hypot(one[0] - one[1], other[2] - other[0])
    above = np.hypot(one[2] - one[0], other[0] - other[1])
    estimate = one[0] - other[0]
    return [estimate, float(estimate - below), float(estimate + above)]


def _differences(ours: GroupEstimates, others: GroupEstimates) -> dict[str, Interval]:
    theirs = cast(dict[str, Interval], others)
    return {
        name: difference(interval, theirs[name])
        for name, interval in cast(dict[str, Interval], ours).items()
    }


def _metrics(
    y: Mask,
    p: Floats,
    has_label: Mask,
    alerted: Mask,
    patient: npt.NDArray[Any],
    members: Mask,
) -> GroupEstimates:
    with_label = members & has_label
    stays: tuple[Any, ...] = y[with_label], p[with_label], patient[with_label]
    alerted_stays = alerted[with_label]
    return {
        "sensitivity": sensitivity(stays[0], alerted_stays, stays[2]),
        "false_positive_rate": proportion(alerted_stays, ~stays[0], stays[2]),
        "ppv": alert_ppv(y[members], alerted[members], patient[members]),
        "oe_ratio": oe_ratio(*stays),
        "auroc": clustered_auroc(*stays),
    }
