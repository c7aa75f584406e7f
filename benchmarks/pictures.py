"""Three pictures: beside others, beside the machine's bandwidth, and how time grows."""

from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks import report as measured
from benchmarks.report import GROWTH, SPEED, Report
from benchmarks.workloads import FORWARD, GRADIENT, INTO, LIMIT, OURS, WORKLOADS

OURS_COLOUR, KERAS_COLOUR, LIMIT_COLOUR = "#1f6f8b", "#7b6ba8", "#222"
PEER_COLOURS = {"torch": "#d9822b", "torch.compile": "#eec07b", "jax.jit": "#8a9a5b"}
COLOURS = {FORWARD: "#1f6f8b", INTO: "#d9822b"}
_STYLE = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False}


def peers(report: Report, path: Path) -> None:
    """Bars of how many times as long others take, in README; the file says which, as text."""
    with mpl.rc_context({**_STYLE, "font.size": 9}):
        figure = peers_figure(report)
        figure.savefig(path, dpi=110, metadata={"Software": None, "Description": caption(report)})
        plt.close(figure)


def caption(report: Report) -> str:
    """What the picture of others shows, in words: a line a workload and verb."""
    lines = []
    for subject in measured.FIRST_PAGE:
        for verb in (FORWARD, GRADIENT):
            others = measured.ratios(report, subject, verb)
            if others:
                bars = ", ".join(f"{name} {measured.number(x)}" for name, x in others.items())
                lines.append(f"{subject}, {verb}: {bars}")
    return "\n".join(lines)


def peers_figure(report: Report) -> plt.Figure:
    """Two panels, loss and gradient: for each workload a bar for each of PEERS; 1 is our time."""
    names = list(measured.FIRST_PAGE)
    colours = {**PEER_COLOURS, "Keras": KERAS_COLOUR}
    figure, panels = plt.subplots(1, 2, figsize=(9, 4.2), sharex=True, sharey=True)
    for axes, verb, title in zip(
        panels, (FORWARD, GRADIENT), ("the loss", "the loss and its gradient"), strict=True
    ):
        for k, subject in enumerate(names):
            others = measured.ratios(report, subject, verb)
            for j, name in enumerate(measured.PEERS):
                if name in others:
                    bar = axes.barh(k + 0.27 * (j - 1), others[name], 0.25, color=colours[name])
                    axes.bar_label(bar, [measured.number(others[name])], padding=2, fontsize=8)
            if not others:
                axes.text(1.3, k, "not measured", va="center", fontsize=8, color="#666")
        axes.axvline(1, color=OURS_COLOUR, lw=2)
        axes.set(title=title, xlabel="times as long as sparse_xent")
        axes.margins(x=0.08)
        axes.xaxis.get_major_locator().set_params(integer=True)
    labels = [name.replace(", ", ",\n") for name in measured.FIRST_PAGE.values()]
    panels[0].set_yticks(range(len(names)), labels)
    panels[0].invert_yaxis()
    keys = [mpl.patches.Patch(color=colours[name], label=name) for name in measured.PEERS]
    keys.insert(0, mpl.lines.Line2D([], [], color=OURS_COLOUR, lw=2, label="sparse_xent, 1"))
    figure.legend(handles=keys, loc="lower center", ncols=4, frameon=False)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    return figure


def bandwidth(report: Report, path: Path) -> None:
    """Bars of GB/s a workload, forward and gradient; a tick is the machine's limit.

    What is counted is scores, labels and gradient, each byte once; the limit moves no labels.
    """
    shown = [w for w in WORKLOADS if report.find(w.name, FORWARD, LIMIT)]
    scores = {row.subject: row.scores for row in report.of(SPEED)}
    with mpl.rc_context(_STYLE):
        figure, panels = plt.subplots(1, 2, figsize=(9, 0.4 * len(shown) + 1.2), sharey=True)
        for axes, verb, moved in zip(panels, (FORWARD, INTO), (1, 2), strict=True):
            for k, w in enumerate(shown):
                of_limit = moved * w.numpy_dtype.itemsize * scores[w.name] / 1e9
                size = of_limit * w.bytes_over_limit(verb)
                for j, (name, colour) in enumerate([(OURS, OURS_COLOUR), *PEER_COLOURS.items()]):
                    seconds = report.find(w.name, verb, name)
                    if seconds:
                        label = name if k == 0 else None
                        at = k + 0.2 * (j - 1.5)
                        axes.barh(at, size / seconds, 0.19, color=colour, label=label)
                limit = report.find(w.name, verb, LIMIT)
                if limit:
                    label = "the machine's limit" if k == 0 else None
                    ends = (k - 0.42, k + 0.42)
                    axes.plot([of_limit / limit] * 2, ends, color=LIMIT_COLOUR, lw=1.5, label=label)
            axes.set(
                title=("read" if moved == 1 else "read and written") + f", {verb}", xlabel="GB/s"
            )
            axes.set_xlim(left=0)
        panels[0].set_yticks(range(len(shown)), [w.name for w in shown])
        panels[0].invert_yaxis()
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower center", ncols=5, frameon=False)
        figure.tight_layout(rect=(0, 0.4 / figure.get_figheight(), 1, 1))
        _save(figure, path)


def growth(report: Report, path: Path) -> None:
    """Nanoseconds a score against classes and labels, and how much faster threads make it."""
    with mpl.rc_context(_STYLE):
        figure, panels = plt.subplots(1, 3, figsize=(9, 3))
        for axes, what in zip(panels, ("classes", "labels", "threads"), strict=True):
            for (verb, classes), points in _curves(report, what).items():
                xs, ys = (np.array(values) for values in zip(*sorted(points), strict=True))
                style = {"10": ":", "100": "--"}.get(classes, "-")
                label = f"{verb}, {classes} classes" if classes else verb
                if what == "threads":
                    ys = ys[0] / ys
                axes.plot(xs, ys, style, marker=".", color=COLOURS[verb], label=label)
            _finish(axes, what)
        figure.tight_layout()
        _save(figure, path)


def _curves(report: Report, what: str) -> dict[tuple[str, str], list[tuple[int, float]]]:
    """(verb, classes or "") -> points."""
    curves: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for row in report.of(GROWTH):
        kind, at, *rest = row.subject.split()
        if kind == what:
            curves.setdefault((row.verb, rest[1] if rest else ""), []).append((int(at), row.value))
    return curves


def _finish(axes: Axes, what: str) -> None:
    if what == "threads":
        axes.set(xlabel="threads", ylabel="times as fast as one thread", ylim=(0, None))
        axes.xaxis.get_major_locator().set_params(integer=True)
    else:
        at = {"classes": "classes, at equal bytes", "labels": "labels of 1000 classes"}[what]
        axes.set(xlabel=at, ylabel="ns a score", xscale="log", yscale="log")
        axes.set_xscale("log", base=2 if what == "classes" else 4)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if what == "classes" else (1,)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y", which="major", alpha=0.3)
    if axes.lines:
        axes.legend(frameon=False, fontsize=6)


def _save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)
