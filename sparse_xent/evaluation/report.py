"""The result of an evaluation: a frozen record of plain numbers, as JSON and as a table.

Another form of it (a figure, a page) is another function of a `Report`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

_BAR = 30  # cells of the longest bar
_EIGHTHS = " ▏▎▍▌▋▊▉█"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a file of predictions scores; losses are in nats.

    Attributes:
        labels: The labels' file.
        predictions: The predictions' file.
        scores: What they were scored as: "probabilities", "logits" or "log-probabilities".
        dtype: Their dtype.
        shape: Their shape.
        normalize: How probabilities were made to sum to 1; None where they are logits.
        label_smoothing: The smoothing of the loss.
        classes: C, the number of classes.
        scored: How many losses entered the mean.
        ignored: How many labels were of an ignored class.
        total_weight: The sum of the weights of the losses scored; None without weights.
        mean_loss: sum(l) / n; with weights sum(w * l) / sum(w). 0 where nothing was scored.
        standard_error: Of the mean: sd / sqrt(n), sd with n - 1; with weights
            sqrt(sum(w^2 * (l - mean)^2)) / sum(w). None where it is not defined.
        perplexity: exp(mean_loss).
        accuracy: The share, by weight, of labels whose class has the greatest score; of equal
            scores the first is the greatest. 0 where nothing was scored.
        uniform_baseline: log C, the loss of equal probabilities.
        frequency_baseline: The entropy of the labels' own frequencies (by weight), the loss of the
            best prediction that is the same for all; None where weights are negative.
        infinite: How many losses are infinite.
        nan: How many losses are NaN.
        epsilon: Probabilities were clipped to [epsilon, 1 - epsilon]; None for logits.
        clipped: How many losses the clip decides, for the label's probability (with "before" its
            share of the row's sum) is below epsilon; None for logits.
        clipped_share: What these are of the sum of all losses, by weight, from 0 to 1; None where
            that sum is 0 or not finite.
        notes: What was odd, a sentence each.
    """

    labels: str
    predictions: str
    scores: str
    dtype: str
    shape: tuple[int, ...]
    normalize: str | None
    label_smoothing: float
    classes: int
    scored: int
    ignored: int
    total_weight: float | None
    mean_loss: float
    standard_error: float | None
    perplexity: float
    accuracy: float
    uniform_baseline: float
    frequency_baseline: float | None
    infinite: int
    nan: int
    epsilon: float | None = None
    clipped: int | None = None
    clipped_share: float | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The fields, as JSON has them: lists for tuples."""
        return {
            k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()
        }


def as_json(report: Report) -> str:
    """One JSON object, in ASCII; numbers in full, "NaN" and "Infinity", which it lacks, as strings.

    The name of a file may have lone surrogates, which JSON can hold as escapes only.
    """
    fields = {
        name: _named(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in report.to_dict().items()
    }
    rows = (f'  "{k}": {json.dumps(v)}' for k, v in fields.items())
    return "{\n" + ",\n".join(rows) + "\n}"


def as_text(report: Report, *, colour: bool = False, blocks: bool = True) -> str:
    """A table for people.

    Args:
        report: The result.
        colour: Whether bold and dim may be marked, by ANSI's escape sequences.
        blocks: Whether bars may be drawn of Unicode's blocks; else of "#".
    """
    bold, dim, plain = ("\x1b[1m", "\x1b[2m", "\x1b[0m") if colour else ("", "", "")
    about = f"{report.scores}, {' x '.join(f'{n:,}' for n in report.shape)} {report.dtype}"
    if report.label_smoothing:
        about += f", label smoothing {report.label_smoothing:g}"
    rows = [
        ("losses scored", f"{report.scored:,}", ""),
        ("ignored", f"{report.ignored:,}", ""),
        *_weight_rows(report),
        *_clip_rows(report),
        ("mean loss", _number(report.mean_loss), _error(report)),
        ("perplexity", _number(report.perplexity), ""),
        ("accuracy", f"{report.accuracy:.4%}" if report.scored else "-", ""),
    ]
    predictions, labels = shown(report.predictions), shown(report.labels)
    title = f"{bold}{predictions}{plain} against {bold}{labels}{plain}"
    lines = [title, f"{dim}{about}{plain}", ""]
    for name, value, remark in rows:
        strong = bold if name == "mean loss" else ""
        remark = f"  {dim}{remark}{plain}" if remark else ""
        lines.append(f"  {name:<20}{strong}{value:>14}{plain}{remark}")
    lines += ["", f"  {dim}{'':<20}{'nats':>14}{'perplexity':>14}{plain}"]
    lines += _bars(report, blocks, dim, plain)
    return "\n".join(line.rstrip() for line in lines)


def _weight_rows(report: Report) -> list[tuple[str, str, str]]:
    if report.total_weight is None:
        return []
    return [("sum of weights", _number(report.total_weight), "the mean is sum(w * loss) / sum(w)")]


def _clip_rows(report: Report) -> list[tuple[str, str, str]]:
    if report.clipped is None:
        return []
    share = report.clipped_share if report.clipped else None
    remark = "" if share is None else f"{share:.3%} of the total loss"
    return [(f"clipped at {report.epsilon:g}", f"{report.clipped:,}", remark)]


def _error(report: Report) -> str:
    if report.standard_error is None:
        return "nats"
    return f"nats, standard error {report.standard_error:.2g}"


def _bars(report: Report, blocks: bool, dim: str, plain: str) -> list[str]:
    """The mean loss and those of predictions without a model, each with a bar of that length."""
    losses = {
        "these predictions": report.mean_loss if report.scored else None,
        "labels' frequencies": report.frequency_baseline,
        f"uniform, log {report.classes:,}": report.uniform_baseline,
    }
    finite = [l for l in losses.values() if l is not None and math.isfinite(l)]
    scale = max(finite, default=0.0)
    lines = []
    for name, l in losses.items():
        if l is None:
            lines.append(f"  {name:<20}{'-':>14}{'-':>14}")
            continue
        length = l / scale * _BAR if math.isfinite(l) and scale > 0 else 0.0
        bar = f"   {dim}{_bar(length, blocks)}{plain}"
        lines.append(f"  {name:<20}{_number(l):>14}{_number(exponential(l)):>14}{bar}")
    return lines


def _bar(length: float, blocks: bool) -> str:
    if not blocks:
        return "#" * round(length)
    whole, eighths = divmod(round(length * 8), 8)
    return "█" * whole + _EIGHTHS[eighths].strip()


def shown(text: str) -> str:
    """The text on one line, whatever a file is called: what cannot be printed is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def exponential(x: float) -> float:
    """exp(x), infinite where it overflows."""
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def _number(x: float) -> str:
    """Eight significant digits, or all of a longer whole part."""
    if not math.isfinite(x) or (x != 0 and not 1e-4 <= abs(x) < 1e12):
        return f"{x:.8g}"
    digits = max(0, 7 - math.floor(math.log10(abs(x)))) if x else 7
    return f"{x:,.{digits}f}"


def _named(x: float) -> str:
    return "NaN" if math.isnan(x) else "Infinity" if x > 0 else "-Infinity"
