"""Charts as files of their own."""

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from gam_ray.report import charts
from gam_ray.report.facts import TrialFacts
from gam_ray.report.plots import plot_folder, write_plots

ODD = '<b>é $x^2$ & "λ"</b>'


def trial(number: int, score: float, **settings: str | float | bool) -> TrialFacts:
    return TrialFacts(
        key=str(number), number=number, name=ODD, role="search", state="finished", score=score,
        oracle=0.5, seconds=1.0, layers="fc3", adversary="gan", weight=1.0, settings=settings,
        left_out=(), error=None, chosen=False,
    )  # fmt: skip


def lines(svg: str) -> list[list[tuple[float, float]]]:
    """The points of every line in the colour of the best trials, without markers."""
    drawn = re.findall(
        r'<path d="(M [^"]+)"[^>]*stroke: var\(--chosen\); [^>]*stroke-width: 1.8', svg
    )
    return [
        [(float(x), float(y)) for x, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", path)]
        for path in drawn
    ]


def test_the_best_trials_are_lines_to_their_scores() -> None:
    trials = [
        trial(
            number,
            number / 10,
            **{"adaptation.weight": 10.0**number, "adaptation.gaussian": number % 2 == 0},
        )
        for number in range(5)
    ]
    svg = charts.parallel(trials, "score (label-free)", ["adaptation.weight"])
    best = lines(svg)
    assert len(best) == 3
    ends = sorted(line[-1][1] for line in best)
    starts = sorted(line[0][1] for line in best)
    # Scores 0.2, 0.3, 0.4 of 0 to 0.4; weights 1 to 10⁴ on a logarithmic axis: the same heights.
    assert ends == pytest.approx(starts)
    assert ends[2] - ends[1] == pytest.approx(ends[1] - ends[0])
    # 2 and 4 are matched, 3 is not: words have heights of their own.
    assert len({line[1][1] for line in best}) == 2
    assert "weight" in svg
    assert "10000" in svg or "1e+04" in svg


def test_a_setting_that_some_lack_is_a_gap_and_odd_names_are_text() -> None:
    trials = [
        trial(0, 0.1, **{"a.kind": ODD}),
        trial(1, 0.2, **{"a.kind": "x", "a.momentum": 0.5}),
        replace(trial(2, 0.2), settings={}),
    ]
    svg = charts.parallel(trials, "score", [])
    root = ET.fromstring(svg)  # noqa: S314 - drawn here
    texts = {"".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"kind", "momentum", "score"} <= texts
    assert any(text.startswith("<b>é $x^2$") for text in texts)


def test_files_stand_alone_and_those_of_before_go(tmp_path: Path) -> None:
    chart = charts.history([trial(0, 0.5), trial(1, 0.7)], "score")
    write_plots({"history": chart, "oracle": chart}, tmp_path / "plots")
    write_plots({"oracle": chart}, tmp_path / "plots")
    (file,) = (tmp_path / "plots").iterdir()
    assert file.name == "score_by_oracle.svg"
    assert (plot_folder(file.stem), plot_folder("history")) == ("oracle", "plots")
    text = file.read_text(encoding="utf-8")
    assert "var(" not in text
    assert "#ffffff" in text
    root = ET.fromstring(text)  # noqa: S314 - drawn here
    assert float(root.attrib["width"]) == pytest.approx(7.2 * 72 * 1.5)
