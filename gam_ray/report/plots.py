"""The page's charts as files of their own: SVG for any viewer, in the page's light colours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from markupsafe import Markup

PLOTS, ORACLE = "plots", "oracle"
"""Folders in MLflow of what needs no target label, and of what does."""
_NAMES = {"oracle": "score_by_oracle"}
# Pixels of a viewer for a point of a chart.
_SCALE = 1.5


def write_plots(drawn: Mapping[str, Markup], folder: Path) -> None:
    """Write each chart as NAME.svg; those of an earlier time go.

    Args:
        drawn: What `draw_charts` gives.
        folder: Made if missing.

    Raises:
        OSError: If the disk refuses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = {folder / f"{_NAMES.get(name, name)}.svg": svg for name, svg in drawn.items()}
    for file in set(folder.glob("*.svg")) - set(written):
        file.unlink()
    for file, svg in written.items():
        draft = file.with_suffix(".tmp")
        draft.write_text(standalone(svg), encoding="utf-8")
        draft.replace(file)


def plot_folder(name: str) -> str:
    """MLflow's folder of the chart of that name: what target labels say stands apart."""
    return ORACLE if name in _NAMES.values() else PLOTS


def standalone(svg: str) -> str:
    """A chart of the page as a document of its own: with its colours, on white, with a size."""
    text = re.sub(r"var\((--[a-z-]+)\)", lambda found: _light_colours()[found[1]], svg)
    _, _, width, height = re.search(r'viewBox="([^"]+)"', text)[1].split()  # type: ignore[index]
    size = f'width="{_SCALE * float(width):g}" height="{_SCALE * float(height):g}"'
    paper = f'style="background:{_light_colours()["--paper"]}"'
    return (
        f"<?xml version='1.0' encoding='utf-8'?>\n{text.replace('<svg', f'<svg {size} {paper}', 1)}"
    )


@lru_cache
def _light_colours() -> dict[str, str]:
    """Variable → colour, as the page's style sheet has it for light readers."""
    style = files("gam_ray.report").joinpath("templates/report.css").read_text(encoding="utf-8")
    light = style[style.index("{") : style.index("}")]
    return dict(re.findall(r"(--[a-z-]+): (#[0-9a-f]+)", light))
