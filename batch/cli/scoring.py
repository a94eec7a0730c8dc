"""The commands that apply a scorer: score, replay, outcomes, similar, explain."""

from functools import partial
from pathlib import Path
from typing import Any

import click

from featurestore.cli.completion import complete_hadm_id, complete_scorer
from featurestore.cli.json_output import by_reason, echo_json, echo_result
from featurestore.cli.options import (
    ADMISSION_ID,
    CUTOFF,
    HADM_ID,
    HORIZON,
    JSON,
    NEGATIVE_NUMBERS,
    SCORER,
    STORE,
)
from featurestore.cli.progress import say
from featurestore.store.scorer_metrics import (
    DEFAULT_OUTCOME,
    format_interval,
    format_threshold,
    negate,
)

IN_HOSPITAL = "still in hospital"
interval = partial(format_interval, to="-")  # a terminal is narrower than a page


@click.command("score")
@STORE
@SCORER
@click.option(
    "--hadm-id",
    type=ADMISSION_ID,
    multiple=True,
    shell_complete=complete_hadm_id,
    help="Only this admission; may be repeated.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Also write them: .csv or .parquet."
)
@JSON
def score_command(
    store: Path, scorer: str, hadm_id: tuple[int, ...], output: Path | None, as_json: bool
) -> None:
    """Score every admission in SQL."""
    from featurestore import Store, score

    result = score(Store(store), scorer, output, hadm_id)
    if as_json:
        echo_json(result)
        return
    if result["no_signal"]:
        click.echo(result["no_signal"])
    if result["pending_notes"]:
        say(
            f"{result['pending_notes']:,} ready notes are not embedded by its encoder yet - "
            f'"featurestore embed {store} MODEL" embeds them'
        )
    if result["run_id"] is None:
        recorded = "all as before, so none was recorded"
    else:
        recorded = f"run {result['run_id']} of {store}"
        if result["recorded"] < result["scored"]:
            recorded += f", {result['recorded']:,} of them new or changed"
    where = f", and in {output}" if output else ""
    click.echo(
        f"{result['scored']:,} admission{'s' * (result['scored'] != 1)} scored by "
        f"{result['scorer_id']}: {recorded}{where}"
    )
    for row in result["scores"] or ():
        click.echo(
            f"{row['hadm_id']}  {row['probability']:.1%}  rank {row['risk_rank']:,}, "
            f"{row['fraction_above']:.1%} of admissions are above"
        )


@click.command("replay")
@STORE
@click.argument("run_id", type=int)
@JSON
def replay_command(store: Path, run_id: int, as_json: bool) -> None:
    """Compute the scores of a past run again.

    Exits with status 1 if a score differs from the recorded one.
    """
    from featurestore import Store, replay

    result = replay(Store(store), run_id)
    echo_result(result, as_json, replay_summary)
    if result["different"]:
        raise click.exceptions.Exit(1)


def replay_summary(result: dict[str, Any]) -> str:
    """Return how many scores of a run were reproduced, as lines of text."""
    lines = [
        f"run {result['run_id']} of {result['scorer_id']}: {result['same']:,} of "
        f"{result['scored']:,} scores computed again are the same to the last bit"
    ]
    if result["changed_since"]:
        lines.append(
            f"{result['changed_since']:,} cannot be computed again: their notes changed since, "
            "and old windows are not kept"
        )
    if result["different"]:
        lines.append(
            f"{result['different']:,} differ, by at most {result['max_difference']:.2g} - "
            '"featurestore verify STORE" finds what was changed'
        )
    return "\n".join(lines)


@click.command("outcomes")
@STORE
@SCORER
@click.option(
    "--alert-above",
    type=click.FloatRange(0, 1),
    help="Probability of an alert (default: that of the riskiest 10% of predicted test stays).",
)
@click.option("--task", help="Another outcome than the scorer was trained on.")
@JSON
def outcomes_command(
    store: Path, scorer: str, alert_above: float | None, task: str | None, as_json: bool
) -> None:
    """Compare recorded scores with what happened."""
    from featurestore import Store, outcomes

    result = outcomes(Store(store), scorer, alert_above, task)
    if as_json:
        periods = [*map(_reasons_as_rows, result["periods"])]
        echo_json(_reasons_as_rows(result) | {"periods": periods})
    else:
        click.echo(outcomes_table(result))


def _reasons_as_rows(counts: dict[str, Any]) -> dict[str, Any]:
    names = ("waiting_reasons", "not_judged_reasons")
    return counts | {name: by_reason(counts[name]) for name in names}


def outcomes_table(result: dict[str, Any]) -> str:
    """Return a line per period, and how good the scores were over all periods."""
    columns = {
        **{name: name.replace("_", " ") for name in ("scored", "waiting", "not_judged", "judged")},
        "positive": result["outcome"],
        "expected": "expected",
        "alerts": "alerts",
    }
    titles = [f"{title:>{len(title) + 2}}" for title in columns.values()]
    lines = [f"{'':<7}{''.join(titles)}{'outcomes':>16}{'PPV %':>12}  AUROC (95%)"]
    for period in [*result["periods"], {**result, "period": "all"}][-13:]:
        cells = "".join(
            f"{period[name]:>{len(title) + 2},.{int(name == 'expected')}f}"
            for name, title in columns.items()
        )
        split = "/".join(f"{n:,}" for n in period["alert_outcomes"].values())
        ppv = interval([100 * end for end in period["ppv"] or ()], 0)
        auroc = interval(period["auroc"], 2)
        lines.append(f"{period['period']:<7}{cells}{split:>16}{ppv:>12}  {auroc}")
    if len(result["periods"]) == 1:
        del lines[1]
    returns = result["outcome"] == DEFAULT_OUTCOME
    waiting, over = ("the horizon", "over") if result["horizon_days"] else ("the label", "known")
    died = "died in hospital" if returns else "died in hospital without a label"
    return "\n".join(
        [
            *([result["no_signal"]] if result["no_signal"] else []),
            *lines,
            f"calibration slope {interval(result['calibration_slope'])}, "
            f"intercept {interval(result['calibration_intercept'])}",
            f"observed / expected {interval(result['observed_expected'], 2)}"
            f"{_unusual_months(result)}",
            *_cusum_lines(result["cusum"]),
            "without a signal nobody is alerted"
            if result["no_signal"] and not result["alerts"]
            else f"an alert is a probability of {format_threshold(result['alert_above'])} or more; "
            f"outcomes: alerts that {result['outcome']}/did not/{died}/other",
            *_reason_lines(f"waiting, as {waiting} is not {over}", result["waiting_reasons"]),
            *_reason_lines("not judged, as they have no label", result["not_judged_reasons"]),
            f"{result['fitted_on']:,} scored admissions are excluded: the scorer was fitted or "
            "selected on their patients in that time",
        ]
    )


def _reason_lines(title: str, reasons: dict[str, int]) -> list[str]:
    """Return why the label of scored admissions is not known, a line each."""
    counts = {title: sum(reasons.values())} | {f"  {why}": n for why, n in reasons.items()}
    return [f"{name:<44}{count:>9,}" for name, count in counts.items() if count]


def _unusual_months(result: dict[str, Any]) -> str:
    """Return the periods whose observed outcomes differ from the expected ones beyond chance."""
    ratios = {each["period"]: each["observed_expected"] for each in result["periods"]}
    unusual = [
        f"{period} {interval(ratio, 2)}"
        for period, ratio in ratios.items()
        if ratio and len(ratios) > 1 and not ratio[1] <= 1 <= ratio[2]
    ]
    return f"; not 1 in {', '.join(unusual[-2:])}" if unusual else ""


def _cusum_lines(cusum: dict[str, Any] | None) -> list[str]:
    """Return where each CUSUM chart stands, a line each."""
    lines = []
    for name, odds in (("higher", "twice"), ("lower", "half")):
        if cusum:
            chart = cusum[name]
            signal = f"above since {chart['signal']}" if chart["signal"] else "no signal"
            lines.append(
                f"CUSUM for {odds} the odds: {chart['value']:.1f} after {cusum['stays']:,} judged "
                f"stays, limit {chart['limit']:.1f}: {signal}"
            )
    return lines


@click.command("similar", context_settings=NEGATIVE_NUMBERS)
@STORE
@HADM_ID
@click.option("-n", type=click.IntRange(1), default=10, show_default=True, help="How many.")
@CUTOFF
@HORIZON
@click.option("--task", help="What the outcome is.  [default: readmission]")
@JSON
def similar_command(
    store: Path,
    hadm_id: int,
    n: int,
    cutoff: str | None,
    horizon_days: int | None,
    task: str | None,
    as_json: bool,
) -> None:
    """Find the most similar admissions of other patients."""
    from featurestore import Store, similar

    neighbours = similar(Store(store), hadm_id, n, cutoff, horizon_days, task)
    echo_result(neighbours, as_json, similar_table)


def similar_table(neighbours: list[dict[str, Any]]) -> str:
    """Return a line per similar admission, with its outcome."""
    ids = [str(row[name]) for row in neighbours for name in ("hadm_id", "subject_id")]
    width = max(11, *map(len, ids)) + 1  # ids may be 64-bit numbers
    lines = [f"{'hadm_id':>{width}}{'subject_id':>{width}}{'similarity':>12}  outcome"]
    for row in neighbours:
        positive = row["outcome"]
        outcome = {True: positive, False: negate(positive), None: "no label"}[row["label"]]
        days = f" after {row['days_to_return']} days" if row["days_to_return"] is not None else ""
        reason = f" ({row['reason']})" if row["reason"] else ""
        waiting = "horizon not over" if positive == DEFAULT_OUTCOME else "label not known yet"
        if row["label"] is None and row["reason"] in ("horizon not yet observed", IN_HOSPITAL):
            so_far = "no return" if positive == DEFAULT_OUTCOME else negate(positive)
            outcome, reason = f"{so_far} so far", f" ({waiting})"
        elif row["label"] is not None and not row["mature"]:
            reason = f"{reason} ({waiting})"
        lines.append(
            f"{row['hadm_id']:>{width}}{row['subject_id']:>{width}}{row['similarity']:>12.6f}  "
            f"{outcome}{days}{reason}"
        )
    return "\n".join(lines)


@click.command("explain", context_settings=NEGATIVE_NUMBERS)
@STORE
@HADM_ID
@click.option(
    "--scorer",
    shell_complete=complete_scorer,
    help="A name or scorer_id (default: the newest).",
)
@click.option("-n", type=click.IntRange(1), default=10, show_default=True, help="How many notes.")
@JSON
def explain_command(store: Path, hadm_id: int, scorer: str | None, n: int, as_json: bool) -> None:
    """Show how much each note and window contributed to a score."""
    from featurestore import Store, explain

    explanation = explain(Store(store), hadm_id, scorer)
    if as_json:
        echo_json(explanation)
    else:
        click.echo(explanation_table(explanation, n))


def explanation_table(explanation: dict[str, Any], n: int) -> str:
    """Return the n notes that contributed most to a score, each with its strongest window."""
    notes, windows = explanation["notes"], explanation["windows"]
    width = max([10, *(len(note["note_id"]) for note in notes[:n])]) + 2  # ids may be long texts
    lines = [
        *([explanation["no_signal"]] if explanation["no_signal"] else []),
        f"admission {explanation['hadm_id']}: {explanation['probability']:.1%} by "
        f"{explanation['scorer_id']}, from {counted(windows, 'window')} of "
        f"{counted(notes, 'note')}",
        f"contributions in {explanation['unit']}",
        f"{'note':<{width}}{'category':<20}{'known at':<16}{'contribution':>14}  strongest window",
    ]
    if explanation["unit"] == "log odds":
        lines.append(f"{'average admission':<{width + 36}}{explanation['base']:>+14.3f}")
    for note in notes[:n]:
        strongest = next(w for w in windows if w["note_id"] == note["note_id"])
        lines.append(
            f"{note['note_id']:<{width}}{(note['category'] or '')[:18]:<20}"
            f"{note['available_at']:%Y-%m-%d %H:%M}{note['contribution']:>+14.3f}  "
            f"{strongest['window_no'] + 1} of {note['windows']}"
        )
    others = sum(note["contribution"] for note in notes[n:])
    if notes[n:]:
        lines.append(f"{counted(notes[n:], 'other note'):<{width + 36}}{others:>+14.3f}")
    for part in explanation["covariates"]:
        value = "missing" if part["value"] is None else f"{part['value']:.4g}"
        name = part["covariate"][: width + 19]
        lines.append(f"{name:<{width + 20}}{value:<16}{part['contribution']:>+14.3f}")
    parts = [*notes, *explanation["covariates"]]
    total = explanation["base"] + sum(part["contribution"] for part in parts)
    return "\n".join([*lines, f"{'total':<{width + 36}}{total:>+14.3f}"])


def counted(things: list[Any], name: str) -> str:
    """Return how many there are, such as `1 window` or `2 windows`."""
    return f"{len(things):,} {name}{'s' * (len(things) != 1)}"
