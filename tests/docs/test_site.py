"""The site builds, all its links lead somewhere, and its generated pages say what the code says."""

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT

reference = runpy.run_path(str(ROOT / "docs" / "reference.py"))


def build(project: Path, site: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_site_builds_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    done = build(ROOT, tmp_path / "site")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "start" / "index.html").is_file()


@pytest.mark.parametrize("link", ["[gone](nowhere.md)", "[gone](cli.md#nowhere)"])
def test_a_link_to_nowhere_breaks_the_build(tmp_path: Path, link: str) -> None:
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    with (tmp_path / "docs" / "faq.md").open("a", encoding="utf-8") as page:
        page.write(f"\n{link}\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    assert "nowhere" in done.stderr


@pytest.mark.parametrize("page", reference["PAGES"])
def test_generated_pages_are_up_to_date(page: str) -> None:
    written = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert written == reference["PAGES"][page](), "run `make docs`"


def test_every_setting_is_on_its_page() -> None:
    page = (ROOT / "docs" / "study_file.md").read_text(encoding="utf-8")
    for words in ("`label_shift` | number, ≥ 0, ≤ 1 | `0.65`", "## trial.adaptation.moments\n"):
        assert words in page
    assert "StudentConfig" not in page
