"""The plots of the page, as SVG that stands in HTML and takes its colours from it.

Text stays text. Every colour is a CSS variable of the page, so that one drawing serves light,
dark and paper; what a colour says, a marker says as well.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from gam_ray.config.secrets import masked
from gam_ray.report.facts import Changes, TrialFacts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Stand for the page's colours until the SVG is written: Matplotlib takes no variables.
INK, MUTED, RULE = "#010101", "#020202", "#030303"
CHOSEN, BASELINE, OTHER, SECOND = "#040404", "#050505", "#060606", "#070707"
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    RULE: "--rule",
    CHOSEN: "--chosen",
    BASELINE: "--baseline",
    OTHER: "--other",
    SECOND: "--second",
}
WIDTH = 7.2
"""Inches of a chart, at 72 points each; the page scales it to its column."""
MOST_ROWS = 20
"""Layer sets or classes that one chart lists."""
MOST_AXES, MOST_WORDS, LEAST_BEST = 8, 12, 3

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "gam_ray",
    "text.parse_math": False,  # a name may hold a $
    "axes.unicode_minus": True,
    "font.size": 10,
    "font.sans-serif": ["DejaVu Sans"],
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": RULE,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
}
# What each kind of trial is drawn with: marker, colour, size, whether it is filled.
_MARKS: dict[str, tuple[str, str, float, bool]] = {
    "searched": ("o", OTHER, 26, True),
    "stopped early": ("o", OTHER, 26, False),
    "left out": ("x", MUTED, 26, True),
    "baseline": ("s", BASELINE, 34, True),
    "student": ("D", SECOND, 34, True),
    "chosen": ("*", CHOSEN, 150, True),
}


def history(trials: Sequence[TrialFacts], score: str) -> Markup:
    """Final score of each trial by its number."""
    with _chart(2.9) as (figure, axes):
        _scatter(axes, [(trial.number, _score(trial), trial) for trial in trials])
        axes.set(xlabel="trial, in the order of submission", ylabel=score)
        return _svg(figure, "history")


def score_by_weight(trials: Sequence[TrialFacts], score: str) -> Markup:
    """Final score by λ, a marker for each adversary."""
    with _chart(2.9) as (figure, axes):
        names = sorted({trial.adversary for trial in trials})
        looks = (("o", BASELINE), ("^", CHOSEN), ("s", SECOND))
        for name, (marker, colour) in zip(names, looks, strict=False):
            found = [trial for trial in trials if trial.adversary == name]
            axes.scatter(
                [trial.weight for trial in found],
                [_score(trial) for trial in found],
                marker=marker, color=colour, s=30, label=name,
            )  # fmt: skip
        if all(trial.weight > 0 for trial in trials):
            axes.set_xscale("log")
            # Matplotlib's own labels of a logarithmic axis are mathematics, which stays unparsed.
            axes.xaxis.set_major_formatter(_plain_number)
            axes.xaxis.set_minor_formatter(_first_digits)
            axes.tick_params(axis="x", which="minor", pad=5)  # on one line with the major ones
        axes.set(xlabel="λ, weight of the adversarial term", ylabel=score)
        axes.grid(alpha=0.6)
        _legend(figure, axes)
        return _svg(figure, "weight")


def score_by_group(groups: Mapping[str, Sequence[float]], score: str, name: str) -> Markup:
    """Final scores of groups of trials, the best mean first: a dot a trial, a line at the mean."""
    ranked = sorted(groups.items(), key=lambda item: -sum(item[1]) / len(item[1]))[:MOST_ROWS]
    with _chart(0.75 + 0.3 * len(ranked)) as (figure, axes):
        for row, (_, values) in enumerate(ranked):
            axes.scatter(values, [row] * len(values), color=BASELINE, s=26, alpha=0.65)
            mean = sum(values) / len(values)
            axes.scatter([mean], [row], marker="|", color=CHOSEN, s=260, linewidths=2.5)
        labels = [f"{_short(group)} ({len(values)})" for group, values in ranked]
        _rows(axes, labels)
        axes.set(xlabel=f"{score}; the bar is the mean, in brackets how many trials")
        return _svg(figure, name)


def importance(shares: Mapping[str, float]) -> Markup:
    """Share of each parameter in what sets the best trials apart."""
    shown = list(shares.items())[:MOST_ROWS]
    with _chart(0.75 + 0.28 * len(shown)) as (figure, axes):
        axes.barh(range(len(shown)), [share for _, share in shown], color=BASELINE, height=0.6)
        for row, (_, share) in enumerate(shown):
            axes.annotate(
                f"{100 * share:.0f} %", (share, row), xytext=(4, 0),
                textcoords="offset points", va="center",
            )  # fmt: skip
        _rows(axes, [_short(path) for path, _ in shown])
        axes.set_xlim(0, 1.1 * max(share for _, share in shown))
        axes.set(xlabel="share of the importance")
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        return _svg(figure, "importance")


def parallel(trials: Sequence[TrialFacts], score: str, logarithmic: Sequence[str]) -> Markup:
    """A line a trial over the axes of its settings to its score; the best are in colour.

    Args:
        trials: Searched ones with a score; at least one.
        score: What the last axis is called.
        logarithmic: Settings whose axis is.
    """
    paths = list(dict.fromkeys(path for trial in trials for path in trial.settings))[:MOST_AXES]
    axes_of = [_Scale.of([t.settings.get(p) for t in trials], p in logarithmic) for p in paths]
    axes_of.append(_Scale.of([_score(trial) for trial in trials], is_logarithmic=False))
    ranked = sorted(trials, key=lambda trial: -_score(trial))
    best = ranked[: max(LEAST_BEST, len(ranked) // 10)]
    with _chart(3.9) as (figure, axes):
        for trial in reversed(ranked):  # the best on top
            values = [*(trial.settings.get(path) for path in paths), _score(trial)]
            heights = [scale.height(value) for scale, value in zip(axes_of, values, strict=True)]
            is_best = trial in best
            axes.plot(
                range(len(heights)), heights,
                color=CHOSEN if is_best else OTHER, linewidth=1.8 if is_best else 0.7,
                alpha=0.95 if is_best else 0.5, marker="o" if is_best else None, markersize=3,
            )  # fmt: skip
        for place, scale in enumerate(axes_of):
            _vertical(axes, place, scale)
        labels = [*(_tail(path) for path in paths), score.split(" (", maxsplit=1)[0]]
        axes.set_xticks(range(len(labels)), labels)
        axes.set(xlim=(-0.15, len(labels) - 0.55), ylim=(-0.06, 1.06), yticks=[])
        axes.spines[:].set_visible(False)
        axes.tick_params(axis="x", length=0)
        return _svg(figure, "parallel")


@dataclass(frozen=True)
class _Scale:
    """One axis of `parallel`: heights in [0, 1] of values.

    Attributes:
        ticks: Height and label of each.
        low: Value at the foot, its logarithm where it is logarithmic; of words 0.
        high: The same at the top.
        is_logarithmic: Whether heights are of logarithms.
        words: Values that are no numbers, from the foot up; empty for numbers.
    """

    ticks: tuple[tuple[float, str], ...]
    low: float
    high: float
    is_logarithmic: bool
    words: tuple[str, ...] = ()

    @classmethod
    def of(cls, values: Sequence[Any], is_logarithmic: bool) -> _Scale:
        """The axis that these values need; None is none of them."""
        known = [value for value in values if value is not None]
        if any(isinstance(value, str | bool) for value in known):
            words = tuple(sorted({str(value) for value in known}))
            most = max(1, len(words) - 1)
            every = max(1, math.ceil(len(words) / MOST_WORDS))
            ticks = [(row / most, _short(word, 18)) for row, word in enumerate(words)]
            return cls(tuple(ticks[::every]), 0, most, is_logarithmic=False, words=words)
        low, high = min(known), max(known)
        middle = math.sqrt(low * high) if is_logarithmic else (low + high) / 2
        marks = [low, middle, high] if high > low else [low]
        foot, top = (math.log(low), math.log(high)) if is_logarithmic else (low, high)
        scale = cls((), foot, top, is_logarithmic=is_logarithmic)
        return replace(scale, ticks=tuple((scale.height(each), f"{each:.3g}") for each in marks))

    def height(self, value: Any) -> float:
        """In [0, 1]; NaN, where a line has a gap, for a setting that a trial does not have."""
        if value is None:
            return math.nan
        if self.words:
            return self.words.index(str(value)) / self.high
        place = math.log(value) if self.is_logarithmic else float(value)
        return (place - self.low) / (self.high - self.low) if self.high > self.low else 0.5


def _vertical(axes: Axes, place: int, scale: _Scale) -> None:
    """An axis of `parallel` with its labels."""
    axes.vlines(place, 0, 1, color=MUTED, linewidth=1)
    for height, label in scale.ticks:
        axes.annotate(
            label, (place, height), xytext=(4, 0), textcoords="offset points", va="center",
            fontsize=8,
        )  # fmt: skip


def _tail(path: str) -> str:
    """The last part of a dotted path, broken at its first underscore: axes stand close."""
    return _short(path.rsplit(".", 1)[-1], 24).replace("_", "_\n", 1)


def class_shares(changes: Changes) -> Markup:
    """Predicted share of each class before and after; of many, those that changed most."""
    most = sorted(changes.classes, key=lambda each: -abs(each.after - each.before))[:MOST_ROWS]
    shown = [each for each in changes.classes if each in most]
    with _chart(0.95 + 0.28 * len(shown)) as (figure, axes):
        rows = range(len(shown))
        before, after = [100 * e.before for e in shown], [100 * e.after for e in shown]
        axes.hlines(rows, before, after, color=MUTED, linewidth=1.5)
        axes.scatter(
            before, rows, marker="s", facecolors="none", edgecolors=BASELINE, s=34,
            label="source network",
        )  # fmt: skip
        axes.scatter(after, rows, marker="o", color=CHOSEN, s=34, label="chosen network")
        _rows(axes, [_short(each.name) for each in shown])
        axes.set(xlabel=f"% of the held-out target's {changes.unit} predicted as")
        axes.set_xlim(left=min(0, axes.get_xlim()[0]))
        _legend(figure, axes)
        return _svg(figure, "classes")


def score_by_oracle(trials: Sequence[TrialFacts], score: str, figure_name: str) -> Markup:
    """What target labels say of each trial by its final score."""
    with _chart(3.2) as (figure, axes):
        points = [(_score(t), 100 * t.oracle, t) for t in trials if t.oracle is not None]
        _scatter(axes, points)
        axes.set(xlabel=score, ylabel=f"oracle: test {figure_name} %")
        return _svg(figure, "oracle")


def score_by_cost(trials: Sequence[TrialFacts], score: str) -> Markup:
    """Final score by the seconds that a trial took."""
    with _chart(2.9) as (figure, axes):
        _scatter(axes, [(trial.seconds, _score(trial), trial) for trial in trials])
        axes.set(xlabel="seconds of the trial in its lane", ylabel=score)
        return _svg(figure, "cost")


@contextmanager
def _chart(height: float) -> Iterator[tuple[Figure, Axes]]:
    """A figure of the page's style, so many inches high, with one pair of axes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        # Not of pyplot, whose state belongs to whoever uses it in this process.
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        yield figure, figure.add_subplot()


def _kind(trial: TrialFacts) -> str:
    if trial.chosen:
        return "chosen"
    if trial.left_out:
        return "left out"
    if not trial.is_searched:
        return "student" if trial.role == "student" else "baseline"
    return "stopped early" if trial.state == "pruned" else "searched"


def _score(trial: TrialFacts) -> float:
    assert trial.score is not None, "charts are of trials that have a score"
    return trial.score


def _scatter(axes: Axes, points: Iterable[tuple[float, float, TrialFacts]]) -> None:
    """Points (x, y, trial), marked by what kind of trial each is."""
    found: dict[str, list[tuple[float, float]]] = {}
    for x, y, trial in points:
        found.setdefault(_kind(trial), []).append((x, y))
    for kind, (marker, colour, size, filled) in _MARKS.items():
        if kind in found:
            axes.scatter(
                [x for x, _ in found[kind]],
                [y for _, y in found[kind]],
                marker=marker,
                s=size,
                label=kind,
                facecolors=colour if filled else "none",
                edgecolors=None if marker == "x" else colour,  # a cross has no edge
            )
    axes.grid(alpha=0.6)
    axes.margins(0.06, 0.1)
    _legend(axes.figure, axes)


def _legend(figure: Any, axes: Axes) -> None:
    if axes.get_legend_handles_labels()[1]:
        figure.legend(loc="outside upper left", ncols=6, handletextpad=0.3, columnspacing=1.2)


def _rows(axes: Axes, labels: Sequence[str]) -> None:
    """Name the rows of a horizontal chart, the first on top."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.6)


def _plain_number(value: float, _: float) -> str:
    return f"{value:g}"


def _first_digits(value: float, _: float) -> str:
    """A label for 2 and 5 times a power of ten alone: all of them would not fit."""
    return f"{value:g}" if f"{value:e}"[0] in "25" else ""


def _short(name: str, most: int = 40) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _svg(figure: Figure, name: str) -> Markup:
    """The figure as an ``<svg>`` element whose ids no other chart of the page has.

    Args:
        figure: What to write.
        name: Of the chart, unique in the page.
    """
    stream = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(stream, format="svg", metadata=nothing)
    text = stream.getvalue()
    # From its element on, without a style sheet that would hold for the whole page.
    text = re.sub(
        r"<defs>\s*<style.*?</style>\s*</defs>", "", text[text.index("<svg") :], flags=re.DOTALL
    )
    text = re.sub(r"<[^>]+>", lambda tag: _fitted(tag.group(), name), text)
    # Matplotlib has escaped every text that came from a name.
    return Markup(masked(text))  # noqa: S704


def _fitted(tag: str, name: str) -> str:
    """A tag with ids of this chart alone, with the page's colours, and scaled by the page."""
    if tag.startswith("<svg"):
        tag = re.sub(r' (?:width|height)="[^"]*"', "", tag)
    tag = re.sub(r'( id="|url\(#|xlink:href="#)', rf"\1{name}-", tag)
    for colour, variable in _VARIABLES.items():
        tag = tag.replace(colour, f"var({variable})")
    return tag
