"""The page of a study, from its folder alone."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from page_reader import Page, read_page
from PIL import Image
from study_records import METRICS
from typer.testing import CliRunner

from gam_ray.cli import app
from gam_ray.config import SearchSpace, StudyConfig, apply_settings, load_study_config
from gam_ray.domains import UnlabelledImages
from gam_ray.study import reporting, results
from gam_ray.study.reproduction import study_yaml
from gam_ray.study.store import EndRecord, ReportRecord, Role, StudyStore, TrialRecord
from gam_ray.study.study import Study, runs_view
from gam_ray.tracking import ArtifactReady, MetricsReported, TagsSet, TrackingQueue

MakeConfig = Callable[..., StudyConfig]
CLASSES = ("zero", "one", "two")
IMAGES = 6
GUARD = {"guard/class_shift": 0.25, "guard/agreement": 0.5, "guard/feature_rank": 1.5}
HOSTILE = "<script>alert('x')</script>\"><img src=//evil.org/a.png> $x^2$ {{ 7*7 }} -->"


def sure(classes: Sequence[int], share: float = 0.8) -> np.ndarray:
    """Predictions of these classes, of three, each as sure as `share`."""
    rest = (1 - share) / 2
    return (np.eye(3) * (share - rest) + rest)[list(classes)].astype(np.float32)


class Stub:
    """A study's folder that is filled by hand."""

    def __init__(self, config: StudyConfig, state: str = "finished") -> None:
        self.config, self.store = config, StudyStore(config.folder)
        content = {"key": config.key(), "config": config.to_mapping()}
        self.store.write("study", {**content, "trials": config.planned_trials})
        self.store.write("state", {"state": state, "started": 100.0, "ended": 160.0})

    def add(
        self,
        classes: Sequence[int] | None,
        *,
        role: Role = "search",
        state: Any = "finished",
        error: str | None = None,
        oracle: dict[str, float] | None = None,
        number: int | None = None,
        settings: dict[str, Any] | None = None,
        predictions: np.ndarray | None = None,
        score: float = 0.5,
        **guard: float,
    ) -> str:
        number = len(self.store.trials()) if number is None else number
        settings = settings or {"adaptation.weight": (number + 1) / 10}
        if role in ("no adaptation", "gaussian"):
            kind = "none" if role == "no adaptation" else role
            settings, trial = {}, self.config.trial.baseline(kind)
        else:
            trial = apply_settings(self.config.trial, settings)
        files = self.store.trial(trial.key())
        files.create(TrialRecord(trial.key(), number, role, settings, trial))
        if classes is not None or predictions is not None:
            metrics = {**METRICS, **GUARD, **{f"guard/{k}": v for k, v in guard.items()}}
            metrics["score/class_ami"] = score
            said = sure(classes) if predictions is None else predictions
            files.append_report(ReportRecord(40, metrics, 1.0), said)
        if state != "running":
            files.write_end(EndRecord(state, 40, 2.0 + number, error, oracle))
        return trial.key()

    def page(self, **options: Any) -> Page:
        """The page as read; it must be sound in any state of the study."""
        reporting.write_report(self.store, **options)
        html = (self.store.folder / "report.html").read_text(encoding="utf-8")
        page = read_page(html)
        assert page.faults == []
        assert len(page.ids) == len(set(page.ids))
        assert [a for a in page.addresses if not a.startswith(("#", "data:"))] == []
        assert not re.search(r"@import|url\((?!#)", html)
        assert "script" not in page.tags
        return page


@pytest.fixture(autouse=True)
def held_out(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Says which images are at hand; none by default."""
    from gam_ray.training import data

    def at_hand(images: torch.Tensor, labels: Any, names: tuple[str, ...] = CLASSES) -> None:
        monkeypatch.setattr(
            data, "load_held_out_target", lambda *_: (UnlabelledImages(images), names)
        )
        monkeypatch.setattr(data, "load_held_out_labels", lambda *_: labels)

    def missing(*_: Any) -> None:
        raise FileNotFoundError("no such data")

    monkeypatch.setattr(data, "load_held_out_target", missing)
    return at_hand


@pytest.fixture
def stub(make_config: MakeConfig) -> Stub:
    """A finished study: the source network, two adapted ones, one pruned, one that failed."""
    study = Stub(make_config())
    study.add((0, 0, 0, 0, 1, 2), role="no adaptation", oracle={"test": 0.4, "train": 0.41})
    study.add((0, 0, 0, 1, 1, 2), role="gaussian", oracle={"test": 0.45, "train": 0.46})
    study.add((0, 0, 1, 1, 2, 2), oracle={"test": 0.777, "train": 0.7})
    study.add((0, 0, 1, 1, 2, 2), oracle={"test": 0.6, "train": 0.6})
    study.add((0, 1, 1, 1, 2, 2), state="pruned", oracle={"test": 0.9, "train": 0.9})
    study.add(None, state="failed", error="DivergedError: loss/target is nan at step 7")
    return study


@pytest.mark.parametrize("objectives", [["score"], ["score", "cost"]])
def test_what_the_search_looked_for_stands_by_its_sampler(
    make_config: MakeConfig, objectives: list[str]
) -> None:
    study = Stub(make_config(search={"trials": 4, "objectives": objectives}))
    study.add((0, 0, 0, 0, 1, 2), role="no adaptation")
    for number in range(10):
        study.add((0, 0, 1, 1, 2, 2) if number % 2 else (0, 1, 1, 1, 2, 2))
    text = study.page().text
    assert ("tpe, for score and cost; stopped" in text) == (len(objectives) > 1)


def leave_masks(store: StudyStore, key: str, masks: np.ndarray) -> None:
    nothing = np.zeros(0)
    np.savez(
        store.trial(key).exhibits, layers=np.array([], "U1"), before=nothing, after=nothing,
        frames=np.arange(len(masks)), masks=masks, confidence=masks,
    )  # fmt: skip


def digits(count: int = IMAGES, channels: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, 8, 8), generator=generator, dtype=torch.uint8)


def test_the_page_says_what_best_says(stub: Stub) -> None:
    best, page = results.best(stub.store), stub.page()
    assert best["trial"]["number"] == 2
    assert f"Use trial {best['trial']['name']}." in page.text
    assert f"Its ensv is {best['score']['value']:.3f}, the source network's " in page.text
    assert f"source network, not adapted {best['no_adaptation']['score']:.3f}" in page.text
    assert f"scores higher than {best['score']['percentile']:.0f} % of the trusted" in page.text
    assert f"{best['reliability']['mean_regret']:.1f} points below the best trial" in page.text
    assert "Its settings ran once" in page.text
    planned = stub.config.planned_trials
    assert f"4 finished, 1 pruned, 1 failed, of {planned} planned" in page.text
    assert "rendered-digits → handwritten-digits, lenet" in page.text
    assert "adaptation.layers at least 1 of conv1, conv2, fc3, fc4" in page.text
    assert "predicted classes are 0.25 away from the source's labels (at most 0.65)" in page.text


def test_what_target_labels_say_stands_apart(stub: Stub) -> None:
    page = stub.page()
    assert "Oracle: what target labels say afterwards (not used for the choice)" in page.oracle
    assert "test 40.0 % 77.7 % 12.3 points" in page.oracle
    outside = page.text.replace(page.oracle, "")
    assert len(outside) < len(page.text)
    assert "77.7" not in outside
    facts, _ = reporting.gather(stub.store)
    assert facts.answer is not None
    assert "0.777" not in json.dumps(facts.answer)


def test_a_study_without_target_labels_has_no_oracle(make_config: MakeConfig) -> None:
    study = Stub(make_config())
    study.add((0, 0, 1), role="no adaptation")
    study.add((0, 1, 1))
    study.add((0, 1, 1))
    page = study.page()
    assert page.oracle == ""
    assert "oracle" not in page.text.lower()


def test_what_adaptation_changed_is_counted_by_hand(
    stub: Stub, held_out: Callable[..., None]
) -> None:
    held_out(digits(), torch.tensor([0, 0, 1, 1, 2, 0]))
    facts, pictures = reporting.gather(stub.store)
    changes = facts.changes
    assert changes is not None
    # 0, 0, 0, 0, 1, 2 became 0, 0, 1, 1, 2, 2.
    assert (changes.count, changes.changed, changes.unit) == (6, 3, "images")
    assert [(f.before, f.after, f.count) for f in changes.flows] == [
        ("zero", "one", 2), ("one", "two", 1),
    ]  # fmt: skip
    assert [(c.name, round(6 * c.before), round(6 * c.after)) for c in changes.classes] == [
        ("zero", 4, 2), ("one", 1, 2), ("two", 1, 2),
    ]  # fmt: skip
    assert [p.caption for p in pictures.flipped] == [
        "was zero, now one (80 %)", "was zero, now one (80 %)", "was one, now two (80 %)",
    ]  # fmt: skip
    oracle = facts.oracle
    assert oracle is not None
    assert [(c.name, c.before, c.after) for c in oracle.classes] == [
        ("zero", pytest.approx(2 / 3), pytest.approx(2 / 3)), ("one", 0.0, 1.0), ("two", 0.0, 1.0),
    ]  # fmt: skip
    page = stub.page()
    assert sum(address.startswith("data:image/png") for address in page.addresses) == 3
    assert "3 (50.0 %) changed their class" in page.text


def test_the_surest_come_first_and_disputes_are_with_the_trusted_alone(
    make_config: MakeConfig, held_out: Callable[..., None]
) -> None:
    held_out(digits(3), None)
    study = Stub(make_config(objective={"score": "class_ami"}))
    study.add((0, 0, 0), role="no adaptation")
    for _ in range(3):
        study.add((0, 1, 1), class_shift=0.99)  # with a vote, they would be the majority
    for _ in range(2):
        study.add((0, 1, 0))
    study.add(None, predictions=np.concatenate([sure([0, 1], 0.75), sure([1], 0.95)]), score=0.9)
    facts, pictures = reporting.gather(study.store)
    assert facts.changes is not None
    assert facts.changes.consensus == pytest.approx(2 / 3)
    assert [p.caption for p in pictures.flipped] == [
        "was zero, now one (95 %)", "was zero, now one (75 %)",
    ]  # fmt: skip
    assert [p.caption for p in pictures.disputed] == ["others: zero, now one (95 %)"]


def test_images_that_are_not_those_that_were_predicted_are_not_shown(
    stub: Stub, held_out: Callable[..., None]
) -> None:
    held_out(digits(7), None)
    page = stub.page()
    assert "The target's images are not at hand here" in page.text
    assert "class 0" in page.text


def test_segmentation_shows_shares_of_pixels_frames_and_iou(
    make_config: MakeConfig, held_out: Callable[..., None]
) -> None:
    held_out(digits(2, channels=3), torch.zeros(2, 8, 8, dtype=torch.uint8))
    study = Stub(make_config())
    before = {"test": 0.3, "test/iou/zero": 0.5, "test/iou/one": 0.1}
    after = {"test": 0.5, "test/iou/zero": 0.625, "test/iou/one": 0.375}
    unadapted = study.add((0,) * 10, role="no adaptation", oracle=before)
    for _ in range(2):
        study.add((0, 0, 0, 0, 1, 1, 1, 1, 1, 0), oracle=after)
    facts, pictures = reporting.gather(study.store)
    assert facts.changes is not None
    assert facts.changes.unit == "sampled pixels"
    assert pictures.flipped == (), "trials left no masks"

    masks = np.zeros((2, 8, 8), np.uint8)
    leave_masks(study.store, unadapted, masks)
    masks[0, :2], masks[1, 1:] = 1, 2
    for trial in study.store.trials()[1:]:
        leave_masks(study.store, trial.record().key, masks)
    _, pictures = reporting.gather(study.store)
    assert [p.caption for p in pictures.flipped] == [
        "image, source network, choice: 88 % of the pixels changed",
        "image, source network, choice: 25 % of the pixels changed",
    ]  # fmt: skip
    png = base64.b64decode(pictures.flipped[1].uri.split(",")[1])
    shown = np.asarray(Image.open(io.BytesIO(png)))
    assert shown.shape == (8, 3 * 8 + 2, 3)
    np.testing.assert_array_equal(shown[:, :8], digits(2, channels=3)[0].permute(1, 2, 0))
    colours = [tuple(int(c.colour[i : i + 2], 16) for i in (1, 3, 5)) for c in pictures.colours]
    assert (shown[:, 9:17] == colours[0]).all(), "before"
    assert (shown[:2, 18:] == colours[1]).all(), "after"
    assert (shown[2:, 18:] == colours[0]).all(), "after"
    page = study.page()
    assert "By class: IoU, test" in page.oracle
    assert "zero 50.0 % 62.5 % one 10.0 % 37.5 %" in page.oracle
    assert "mean IoU, chosen" in page.oracle


def test_names_and_errors_of_users_are_text(
    make_config: MakeConfig, held_out: Callable[..., None]
) -> None:
    held_out(digits(3), None, (HOSTILE, "b", "c"))
    task = {"source": HOSTILE, "target": f"image-folder:{HOSTILE}"}
    study = Stub(make_config(trial={"task": task, "steps": 40, "report_every": 10}), "failed")
    study.store.write("state", {"state": "failed", "error": HOSTILE, "started": 1.0, "ended": 2.0})
    study.add((0, 1, 1), role="no adaptation")
    study.add((1, 0, 0))
    study.add((1, 0, 0))
    study.add(None, state="failed", error=HOSTILE)
    page = study.page()
    shown = " ".join(HOSTILE.split())
    assert f"Images of {shown} have labels" in page.text
    assert f"It told: {shown}" in page.text
    assert f"failed 1 {shown}" in page.text
    assert page.text.count(shown) > 5
    assert {tag for tag in page.tags if tag in ("script", "link", "iframe")} == set()


def test_passwords_are_masked(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "a-very-secret-token")
    stub.add(None, state="failed", error="no answer from http://me:pw-77@host a-very-secret-token")
    stub.page()
    html = (stub.store.folder / "report.html").read_text()
    told = CliRunner().invoke(app, ["report", str(stub.store.folder), "--json"]).stdout
    for text in (html, told):
        assert "no answer from http" in text
        assert "pw-77" not in text
        assert "a-very-secret-token" not in text


def test_failures_and_the_distrusted_are_told_with_their_causes(stub: Stub) -> None:
    stub.add(None, state="failed", error="DivergedError: loss/target is nan at step 9", number=8)
    stub.add((1,) * IMAGES, class_shift=0.9, number=9)
    text = stub.page().text
    assert "failed 2 DivergedError: loss/target is nan at step 7" in text
    assert "left out 1 predicted classes are 0.90 away from the source's labels" in text


def test_do_not_adapt_is_said_in_words(make_config: MakeConfig) -> None:
    study = Stub(make_config())
    study.add((0, 1, 2), role="no adaptation", oracle={"test": 0.4})
    study.add((0, 1, 2), role="gaussian", oracle={"test": 0.3})
    study.add((0, 0, 0), oracle={"test": 0.2})
    assert results.best(study.store)["adapt"] is False
    text = study.page().text
    assert "Do not adapt. No trial that can be trusted scores higher" in text
    assert "Nothing: the choice is the source network as it is." in text
    assert "Use trial" not in text


def test_a_choice_by_target_labels_says_so(make_config: MakeConfig) -> None:
    study = Stub(make_config(objective={"score": "oracle"}))
    roles: tuple[tuple[Role, float], ...] = (("no adaptation", 0.4), ("search", 0.9))
    for role, oracle in roles:
        key = study.add(None, role=role, oracle={"test": oracle})
        report = ReportRecord(40, {**METRICS, **GUARD, "score/oracle": oracle}, 1.0)
        study.store.trial(key).append_report(report, sure((0, 1)))
    text = study.page().text
    assert "BY TARGET LABELS" in text
    assert "label-free" not in text
    assert "not used for the choice" not in text


@pytest.mark.parametrize("state", ["running", "stopped", "interrupted", "failed"])
def test_a_study_that_is_not_finished_says_so(stub: Stub, state: str) -> None:
    import os
    import socket

    told = {"state": state, "started": 1.0, "host": socket.gethostname(), "pid": os.getpid()}
    stub.store.write("state", told)
    stub.add((0, 0, 1, 1, 2, 2), state="running")
    page = stub.page()
    assert f"This study is {state}" in page.text
    assert "may change" in page.text
    assert "Use trial 02" in page.text


def test_nothing_ended_and_everything_distrusted_are_pages_too(make_config: MakeConfig) -> None:
    study = Stub(make_config(), "stopped")
    text = study.page().text
    assert "There is no answer yet." in text
    assert "no trial of a-study has ended in order yet." in text
    assert f"trials none has begun, of {study.config.planned_trials} planned" in text
    study.add((1, 1, 1), class_shift=0.9)
    assert "the guard distrusts all 1 trials" in study.page().text


@pytest.mark.slow
def test_a_thousand_trials_make_a_page_of_less_than_five_megabytes(
    make_config: MakeConfig, held_out: Callable[..., None]
) -> None:
    held_out(digits(40), torch.zeros(40, dtype=torch.int64))
    study, rng = Stub(make_config()), np.random.default_rng(0)
    study.add(rng.integers(0, 3, 40), role="no adaptation", number=0, oracle={"test": 0.1})
    subsets = [["fc3"], ["fc4"], ["fc3", "fc4"], ["conv1", "fc4"]]
    for number in range(1, 1000):
        settings = {
            "adaptation.weight": float(10 ** rng.uniform(-1, 1)),
            "adaptation.layers": subsets[number % 4],
            "adaptation.adversary": "gan" if number % 2 else "lsgan",
        }
        failed = number % 10 == 0
        study.add(
            None if failed else rng.integers(0, 3, 40),
            number=number,
            settings=settings,
            state="failed" if failed else "finished",
            error=f"DivergedError: {'nan ' * 200} at step {number}" if failed else None,
            oracle={"test": float(rng.uniform())},
        )
    page = study.page()
    assert (study.store.folder / "report.html").stat().st_size < 5e6
    assert "failed 99 DivergedError" in page.text
    assert "PED-ANOVA), from 900 trials. " in page.text
    assert "mathdefault" not in page.text


def test_importance_names_the_layer_that_decides(make_config: MakeConfig) -> None:
    study = Stub(make_config())
    study.add((0,) * 8, role="no adaptation")
    rng = np.random.default_rng(1)
    for number in range(1, 41):
        layers = ["fc3", "fc4"] if number % 2 else ["fc3"]
        # With fc4, as the others with fc4; without, by chance.
        said = (0, 1, 2, 0, 1, 2, 0, 1) if number % 2 else rng.integers(0, 3, 8)
        weight = float(10 ** rng.uniform(-1, 1))
        settings = {"adaptation.weight": weight, "adaptation.layers": layers}
        study.add(said, settings=settings, number=number)
    shares = reporting.gather(study.store)[0].importance.shares
    assert next(iter(shares)) == "adaptation.layers/fc4"
    assert sum(shares.values()) == pytest.approx(1)


def test_few_trials_have_no_importance(stub: Stub) -> None:
    assert "3 ended in order and can be trusted, and 10 are needed" in stub.page().text


def test_the_study_file_of_the_page_is_the_study(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(
        space={
            "adaptation.weight": {"log": [1e-05, 10], "when": {"adaptation.adversary": "gan"}},
            "adaptation.adversary": {"choice": ["gan", "lsgan"]},
        },
        student=None,
        schedule={"kind": "asha", "min_steps": 10},
        tracking={"experiment": "1e3"},
        search={"trials": 4, "enqueue": [{"adaptation.adversary": "lsgan"}]},
    )
    file = tmp_path / "again.yaml"
    file.write_text(study_yaml(config))
    again = load_study_config(file)
    assert again.model_copy(update={"storage": config.storage}) == config
    assert str(tmp_path) not in file.read_text()


def test_the_command_writes_tells_and_prints_json(stub: Stub, tmp_path: Path) -> None:
    folder = str(stub.store.folder)
    told = CliRunner().invoke(app, ["report", folder])
    assert told.exit_code == 0
    assert f"report  {stub.store.folder / 'report.html'}" in told.stdout
    assert str(stub.store.folder / "report.html") in " ".join(
        CliRunner().invoke(app, ["best", folder]).stdout.split("\n")
    )
    other = tmp_path / "new folder" / "page.html"
    done = CliRunner().invoke(app, ["report", folder, "--output", str(other), "--json"])
    content = json.loads(done.stdout)
    assert content["file"] == str(other)
    assert content["bytes"] == other.stat().st_size
    assert content["answer"]["trial"] == results.best(stub.store)["trial"]
    assert [trial["number"] for trial in content["trials"]] == [0, 1, 2, 3, 4, 5]


def test_open_shows_the_page(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr("webbrowser.open", shown.append)
    CliRunner().invoke(app, ["report", str(stub.store.folder), "--open"])
    assert shown == [(stub.store.folder / "report.html").as_uri()]


def test_no_study_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    ended = CliRunner().invoke(app, ["report", "none", "--storage", str(tmp_path)])
    assert ended.exit_code == 2
    assert "no study in" in ended.stderr
    assert list(tmp_path.rglob("*.html")) == []


def test_the_choice_is_told_to_mlflow_with_final_scores_and_plots(make_config: MakeConfig) -> None:
    study = Stub(make_config(objective={"score": "class_ami"}))
    study.add((0, 0, 1), role="no adaptation", score=0.1, oracle={"test": 0.4})
    keys = [study.add((0, 1, 1), score=score, oracle={"test": 0.7}) for score in (0.2, 0.3)]
    study.add(None, state="failed", error="DivergedError")
    Study(study.config)._choose("finished")
    told = [event for _, event in TrackingQueue(study.store.tracking).read()]
    figures = [e.values for e in told if isinstance(e, MetricsReported) and e.trial]
    assert figures == [{"final/score": score} for score in (0.1, 0.2, 0.3)]
    chosen = [e.trial for e in told if getattr(e, "tags", {}).get("gam_ray.chosen") == "yes"]
    assert chosen == [keys[1]]
    files = {Path(e.path).name: e.folder for e in told if isinstance(e, ArtifactReady)}
    assert all((study.store.plots / name).is_file() for name in files if name.endswith(".svg"))
    assert files["score_by_oracle.svg"] == "oracle"
    wanted = ("history.svg", "layers.svg", "parallel.svg")
    assert {files[name] for name in wanted} == {"plots"}
    notes = [e.tags["mlflow.note.content"] for e in told if isinstance(e, TagsSet) and not e.trial]
    assert "**Chosen: 02 " in notes[0]
    assert "- score 0.300; no adaptation 0.100" in notes[0]
    assert "- oracle, test 0.700; no adaptation 0.400" in notes[0]


def test_the_run_table_shows_what_was_searched_and_the_oracle_beside(stub: Stub) -> None:
    view = runs_view(stub.config)
    assert view.metrics[0] == "final/score"
    assert "oracle/test" in view.metrics[1:]
    assert set(view.params) == {"adaptation.weight", "adaptation.layers", "adaptation.adversary"}


def test_what_was_searched_is_written_as_files_have_it() -> None:
    space = SearchSpace.model_validate(
        {
            "adaptation.gaussian": {"choice": (True, False)},
            "adaptation.adversary": {"choice": ("gan", "lsgan")},
            "adaptation.moments.momentum": {
                "float": (0.0, 0.5),
                "when": {"adaptation.gaussian": True, "adaptation.moments.kind": "running"},
            },
        }
    )
    assert list(reporting._searched(space).values()) == [
        "one of true, false",
        "one of gan, lsgan",
        "from 0 to 0.5, where adaptation.gaussian is true and adaptation.moments.kind is running",
    ]
