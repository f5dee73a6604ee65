"""One picture of a study: how its trials went, and how its choice compares with the oracle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gam_ray.report.facts import WITH_SETTINGS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, told apart by colour-blind readers too.
CHOSEN, BASELINE, OTHER = "#D55E00", "#0072B2", "#999999"


@dataclass(frozen=True)
class TrialCurve:
    """What the picture needs of one trial.

    Attributes:
        name: As people see it.
        role: ``search``, ``again`` (a finalist on a fresh seed), ``student``, or which baseline.
        steps: Adaptation steps of its reports.
        scores: The label-free score at each of them.
        final_score: The score that the choice looked at, against the whole crowd.
        oracle: Accuracy in [0, 1] on the target's test split, or None.
        chosen: Whether it is the choice.
    """

    name: str
    role: str
    steps: tuple[int, ...]
    scores: tuple[float, ...]
    final_score: float | None
    oracle: float | None
    chosen: bool

    @property
    def colour(self) -> str:
        """Of its line and point."""
        if self.chosen:
            return CHOSEN
        return OTHER if self.is_searched else BASELINE

    @property
    def is_searched(self) -> bool:
        """Whether it is one of many with searched settings, and needs no name of its own."""
        return self.role in WITH_SETTINGS

    @property
    def label(self) -> str:
        """What is written at its point."""
        if self.chosen:
            return "chosen" if self.is_searched else f"chosen: {self.role}"
        return "" if self.is_searched else self.role


@dataclass(frozen=True)
class Overview:
    """A study, as the picture shows it.

    Attributes:
        title: Such as ``mnist → usps``.
        score: Name of the score that chose.
        by_oracle: Whether it looked at target labels; the picture then says so.
        trials: In the order of submission.
    """

    title: str
    score: str
    by_oracle: bool
    trials: tuple[TrialCurve, ...]

    @property
    def score_label(self) -> str:
        """Of both axes: whether the score knows labels; its name stands above the picture."""
        return f"score ({'TARGET LABELS' if self.by_oracle else 'label-free'})"


def draw_overview(overview: Overview, file: Path) -> None:
    """Draw the picture into `file` (PNG, 1600×640 pixels).

    Left, the score of each trial by step, as the search saw it. Right, the final score against
    the oracle, where target labels exist: the closer to a rising line, the better the score
    chooses.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (curves, scatter) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    figure.suptitle(f"{overview.title}\nscore: {overview.score}")
    _draw_curves(curves, overview)
    _draw_scatter(scatter, overview)
    figure.savefig(file, dpi=160)
    plt.close(figure)


def _draw_curves(axes: Axes, overview: Overview) -> None:
    for trial in overview.trials:
        if trial.role != "search":
            continue
        weight = 2.5 if trial.chosen else 1.0
        axes.plot(
            trial.steps,
            trial.scores,
            color=trial.colour,
            linewidth=weight,
            marker="o",
            markersize=3,
        )
    axes.set(xlabel="adaptation step", ylabel=overview.score_label)
    axes.set_title("what the search saw", fontsize="medium")
    axes.grid(alpha=0.3)


def _draw_scatter(axes: Axes, overview: Overview) -> None:
    axes.set_title("what target labels say afterwards", fontsize="medium")
    axes.set(xlabel=f"final {overview.score_label}", ylabel="oracle: test accuracy %")
    shown = [t for t in overview.trials if t.oracle is not None and t.final_score is not None]
    if not shown:
        axes.text(0.5, 0.5, "no target labels", ha="center", transform=axes.transAxes)
        return
    for trial in sorted(shown, key=lambda trial: trial.chosen):
        assert trial.oracle is not None
        assert trial.final_score is not None
        size = 90 if trial.chosen else 35
        axes.scatter(trial.final_score, 100 * trial.oracle, color=trial.colour, s=size)
        if trial.label:
            axes.annotate(
                trial.label,
                (trial.final_score, 100 * trial.oracle),
                xytext=(-7, 5) if trial.chosen else (6, -10),
                ha="right" if trial.chosen else "left",
                textcoords="offset points",
                color=trial.colour,
            )
    axes.margins(0.12)
    axes.grid(alpha=0.3)
