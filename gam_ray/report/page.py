"""The page of a study: one HTML file that loads nothing from elsewhere."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gam_ray.config.secrets import masked
from gam_ray.report import charts
from gam_ray.report.facts import Pictures, StudyFacts, TrialFacts

MOST_LISTED = 20
"""Trials that one list of the page names; the rest are counted."""
LONGEST_ERROR = 400
"""Characters of an error that are shown."""


@dataclass
class Trouble:
    """Trials with the same cause.

    Attributes:
        kind: ``failed`` or ``left out``.
        cause: Why, as it was told.
        trials: Their names.
    """

    kind: str
    cause: str
    trials: list[str] = field(default_factory=list)


def render_page(facts: StudyFacts, pictures: Pictures, drawn: Mapping[str, Markup]) -> str:
    """The whole page as HTML; every text of the user's is escaped, passwords are masked.

    Args:
        facts: What it tells.
        pictures: What it shows.
        drawn: What `draw_charts` gives.
    """
    environment = Environment(
        loader=PackageLoader("gam_ray.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_without_secrets,
    )
    environment.filters |= {
        "percent": _percent,
        "number": _number,
        "duration": _duration,
        "date": _date,
        "first": _first,
    }
    return environment.get_template("report.html.jinja").render(
        facts=facts,
        pictures=pictures,
        charts=drawn,
        troubles=troubles(facts.trials),
        study_file=_yaml_uri(facts.reproduction.text),
        most=MOST_LISTED,
    )


def troubles(trials: Sequence[TrialFacts]) -> list[Trouble]:
    """What went wrong, by cause, what befell most trials first; failures before the left out."""
    found: dict[tuple[str, str], Trouble] = {}
    for trial in trials:
        told = [("left out", cause) for cause in trial.left_out]
        if trial.state == "failed":
            told.append(("failed", trial.error or "no error was told"))
        for kind, cause in told:
            each = found.setdefault((kind, _kind_of_cause(cause)), Trouble(kind, cause))
            each.trials.append(trial.name)
    return sorted(found.values(), key=lambda each: (each.kind != "failed", -len(each.trials)))


def _kind_of_cause(cause: str) -> str:
    """The same for causes that differ in figures alone."""
    return re.sub(r"[-+]?\d[\d.]*(?:e[-+]?\d+)?", "#", cause)


def draw_charts(facts: StudyFacts) -> Mapping[str, Markup]:
    """Chart by name; those that have nothing to show are left out."""
    score = f"score ({'TARGET LABELS' if facts.question.by_oracle else 'label-free'})"
    scored = [trial for trial in facts.trials if trial.score is not None]
    searched = [t for t in scored if t.is_searched and t.adversary and not t.left_out]
    drawn: dict[str, Markup] = {}
    if scored:
        drawn["history"] = charts.history(scored, score)
        drawn["cost"] = charts.score_by_cost(scored, score)
    if searched:
        drawn["layers"] = charts.score_by_group(_by(searched, "layers"), score, "layers")
        drawn["weight"] = charts.score_by_weight(searched, score)
        drawn["parallel"] = charts.parallel(searched, score, facts.question.logarithmic)
    if len(adversaries := _by(searched, "adversary")) > 1:
        drawn["adversary"] = charts.score_by_group(adversaries, score, "adversary")
    if facts.importance.shares:
        drawn["importance"] = charts.importance(facts.importance.shares)
    if facts.changes:
        drawn["classes"] = charts.class_shares(facts.changes)
    if facts.oracle and any(trial.oracle is not None for trial in scored):
        drawn["oracle"] = charts.score_by_oracle(scored, score, facts.oracle.figure)
    return drawn


def _by(trials: Sequence[TrialFacts], attribute: str) -> dict[str, list[float]]:
    groups: dict[str, list[float]] = {}
    for trial in trials:
        assert trial.score is not None
        groups.setdefault(getattr(trial, attribute), []).append(trial.score)
    return groups


def _without_secrets(value: object) -> object:
    return masked(value) if type(value) is str else value


def _yaml_uri(text: str) -> str:
    encoded = base64.b64encode(text.encode()).decode("ascii")
    return f"data:text/yaml;charset=utf-8;base64,{encoded}"


def _percent(share: float | None, digits: int = 1) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{rest:02d} h" if hours else f"{minutes}:{rest:02d} min"


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def _first(text: str, characters: int = LONGEST_ERROR) -> str:
    return text if len(text) <= characters else f"{text[:characters]} …"
