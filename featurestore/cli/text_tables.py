"""Plain-text tables of results, for people."""

from datetime import datetime
from typing import TYPE_CHECKING, Any

from featurestore.store.scorer_metrics import DEFAULT_OUTCOME, negate, positives

if TYPE_CHECKING:  # It loads DuckDB, which no --help needs.
    from featurestore.cohort.leakage import Finding


# How each job makes the copy that it changes.
_COPIED = {
    "reflink": "in no time: the file system shares blocks (reflink)",
    "bytes": "byte by byte, at the speed of the disk",
}


def sync_table(counts: dict[str, Any]) -> str:
    """Format the changes of each table and the numbers of ready and excluded notes."""
    lines = []
    for table, table_counts in sorted(counts.items(), key=lambda item: item[0] == "notes"):
        kinds = ("new", "changed", "withdrawn", "forgotten", "omitted")
        changes = ", ".join(
            f"{table_counts[kind]:,} {kind}"
            for kind in kinds
            if table_counts.get(kind) is not None and (kind != "omitted" or table_counts[kind])
        )
        lines.append(f"{table:<21}{table_counts['total']:>9,}   {changes}")
    excluded = counts["notes"]["excluded"]
    lines.append(f"  ready              {counts['notes']['total'] - sum(excluded.values()):>9,}")
    lines += [f"  excluded           {count:>9,}   {reason}" for reason, count in excluded.items()]
    return "\n".join(lines)


def flow_table(counts: dict[str, Any]) -> str:
    """Format the flow of admissions, with percentages of the line above that they are part of."""
    outcome = counts["outcome"]
    waiting = "horizon not over" if counts["horizon_days"] else "label not known yet"

    def line(name: str, count: int, total: int) -> str:
        return f"{name:<44}{count:>9,}" + (f"{count / total:>8.1%}" if total else "")

    def reasons(title: str, count_of: dict[str, int], total: int) -> list[str]:
        return [
            line(f"  {title}", sum(count_of.values()), total),
            *(line(f"    {reason}", n, total) for reason, n in count_of.items()),
        ]

    def immature(part: dict[str, Any], total: int) -> list[str]:
        if not part["immature"]:
            return []
        return [
            line(f"  {waiting}", part["immature"], total),
            line(f"    {outcome} so far", part["positive_so_far"], part["immature"]),
        ]

    admissions, n_labelled, predicted = (
        counts["admissions"],
        counts["labelled"],
        counts["predicted"],
    )
    horizon_days = counts["horizon_days"]
    positive = f"    {outcome}" + (f" within {horizon_days} days" if horizon_days else "")
    negative = f"    {negate(outcome)}"
    lines = [
        line("admissions", admissions, 0),
        *reasons("excluded", counts["excluded"], admissions),
        *immature(counts, admissions),
        line("  labelled", n_labelled, admissions),
        line(positive, counts["positive"], n_labelled),
        line(negative, counts["negative"], n_labelled),
    ]
    if counts["planned_returns"]:
        lines.append(line("      planned return", counts["planned_returns"], n_labelled))
    if counts["died_within_horizon"]:
        died = "after discharge" if outcome == DEFAULT_OUTCOME else f"within {horizon_days} days"
        lines.append(line(f"      died {died}", counts["died_within_horizon"], n_labelled))
    stays, judged = predicted["stays"], predicted["judged"]
    lines += [
        line(f"predicted at {predicted['cutoff']}", stays, admissions),
        *reasons("not judged, as they have no label", predicted["not_judged"], stays),
        *immature(predicted, stays),
        line("  judged, by their label", judged, stays),
        line(positive, predicted["positive"], judged),
        line(negative, predicted["negative"], judged),
        line(
            f"{positives(outcome)} {'after' if outcome == DEFAULT_OUTCOME else 'among'} stays that "
            "are not predicted",
            predicted["positive_not_predicted"],
            counts["positive"],
        ),
    ]
    if (early := predicted.get("returns_before_prediction")) is not None:
        lines.append(line("  before the discharge prediction", early, counts["positive"]))
    return "\n".join(lines)


def rules_table(differences: list[dict[str, Any]]) -> str:
    """Format the combinations of labels on which the two rules disagree, one per line."""
    if not differences:
        return "no differences: readmission and clinicalbert agree on every admission"
    lines = [f"{'readmission':<36}{'clinicalbert':<20}{'admissions':>12}"]
    lines += [
        f"{row['readmission']:<36}{row['clinicalbert']:<20}{row['admissions']:>12,}"
        for row in differences
    ]
    return "\n".join(lines)


def findings_table(findings: "list[Finding]") -> str:
    """Format the findings of the leakage audit, one per line."""
    lines = []
    for finding in findings:
        scorer = f"{finding.scorer_id}: " if finding.scorer_id else ""
        line = f"{finding.severity:<7}  {finding.code}  {scorer}{finding.message}"
        if accepted := finding.accepted:
            line += f" (accepted by {accepted.by} on {accepted.at:%Y-%m-%d})"
        lines.append(line)
    return "\n".join(lines)


def info_table(contents: dict[str, Any]) -> str:
    """Format the contents of a store: one line per value, and one per row of a list."""
    observed_until, synced_at = contents["observed_until"], contents["synced_at"]
    values = {
        "store": f"{contents['store']} ({contents['bytes'] / 1e6:,.1f} MB)",
        "copied": _COPIED.get(contents["copied"], "not yet"),
        "encrypted": "yes" if contents["encrypted"] else "no",
        "source": f"{contents['source']} ({contents['schema']})",
        "observed": f"until {observed_until}"
        if contents["live"] or observed_until
        else "fully (a research extract)",
        "synced": f"completely at {_seconds(synced_at)}" if synced_at else "not completely yet",
        "admissions": contents["admissions"],
        "notes": "{ready:,} ready, {excluded:,} excluded".format(**contents["notes"]),
    }
    lines = [f"{name:<12}{value}" for name, value in values.items()]
    for name in ("encoders", "scorers", "nights", "runs"):
        lines.append(f"{name}{'' if contents[name] else ': none yet'}")
        for row in contents[name]:
            counts = row.get("counts", {})
            cells = {key: cell for key, cell in row.items() if key != "counts"}
            cells |= {key: n for key, n in counts.items() if isinstance(n, int | str) and n != 0}
            lines.append("  " + "  ".join(f"{key} {_seconds(cell)}" for key, cell in cells.items()))
    return "\n".join(lines)


def _seconds(cell: Any) -> Any:
    return cell.replace(microsecond=0) if isinstance(cell, datetime) else cell


def receipt_table(receipt: dict[str, Any]) -> str:
    """Format the receipt of an erasure."""
    plural = "s" if receipt["patients"] > 1 else ""
    lines = [f"{receipt['patients']} patient{plural} forgotten: run {receipt['run_id']}"]
    deleted = receipt["rows"] | {"staged shards": receipt["shards"]}
    lines += [f"  {table:<22}{rows:>9,}" for table, rows in deleted.items() if rows]
    for scorer in receipt["scorers"]:
        splits = ", ".join(f"{scorer[s]:,} {s}" for s in ("train", "valid", "test") if scorer[s])
        fitted = scorer["train"] or scorer["valid"]
        verb, advice = ("fitted", " - train it again") if fitted else ("tested", "")
        lines.append(f"{scorer['scorer_id']} was {verb} on them ({splits}){advice}")
    lines.append("not reached:")
    lines += [f"- {place}" for place in receipt["not_reached"]]
    return "\n".join(lines)
