"""Study files that are written for folders, and that they run."""

import string
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from photo_folders import write_domain, write_frames, write_images
from PIL import Image

from gam_ray.config import TrialConfig, apply_settings, load_study_config
from gam_ray.domains.survey import Survey
from gam_ray.drafting import Draft, FolderPair, Machine, draft_study, look_at_folders
from gam_ray.drafting.plan import plan_study
from gam_ray.drafting.writing import study_name, study_text
from gam_ray.networks import build_network
from gam_ray.training.reports import Report, Verdict
from gam_ray.training.trial import Place, check_trial, run_trial

LAPTOP, SERVER = Machine(cpus=4, gpus=0), Machine(cpus=32, gpus=2)


def survey(
    name: str = "photos",
    *,
    size: tuple[int, int] = (28, 28),
    classes: tuple[str, ...] = ("a", "b"),
    problem: str = "classification",
    images: int = 500,
) -> Survey:
    kind = "image" if problem == "classification" else "segmentation"
    return Survey(
        domain=f"{kind}-folder:/data/{name}",
        folder=Path("/data") / name,
        problem=problem,  # type: ignore[arg-type]
        class_names=classes,
        images=images,
        sizes={size: images},
        modes={"RGB": images},
        value_range=(0, 255),
        by_class=dict.fromkeys(classes, images),
        faults=(),
        samples=(),
    )


def written(folder: Path, pair: FolderPair, machine: Machine = LAPTOP) -> TrialConfig:
    draft = draft_study(pair, folder / "study.yaml", machine=machine, force=True)
    return load_study_config(draft.study_file).trial


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quickstart's domains as a user's folders."""
    folder = tmp_path_factory.mktemp("digits")
    write_domain(folder / "from fonts", "rendered-digits", 120, by_class=True)
    write_domain(folder / "hand: written", "handwritten-digits", 90, by_class=False)
    return folder


@pytest.fixture(scope="module")
def draft(digits: Path) -> Draft:
    pair = look_at_folders(digits / "from fonts", digits / "hand: written")
    return draft_study(pair, digits / "study.yaml", machine=LAPTOP)


def test_the_study_file_is_valid_and_names_the_folders(draft: Draft, digits: Path) -> None:
    study = load_study_config(draft.study_file)
    assert study.name == draft.name == "from-fonts-to-hand-written"
    task = study.trial.task
    assert task.source == f"image-folder:{digits}/from fonts"
    assert task.target == f"image-folder:{digits}/hand: written"
    assert (task.network, task.size) == ("lenet", (28, 28))
    assert set(study.space.root) >= {"adaptation.layers", "adaptation.gaussian"}


class Last:
    """Keeps the last report."""

    report_: Report

    def report(self, report: Report) -> Verdict:
        self.report_ = report
        return Verdict(go_on=True)

    def progress(self, stage: str, done: int, total: int) -> None:
        """Nothing to keep."""

    def is_to_pause(self) -> bool:
        return False


def test_a_trial_of_it_runs(draft: Draft, tmp_path: Path) -> None:
    """From folders of mixed formats, modes and sizes to scores, by the file's own settings."""
    few = {"steps": 4, "report_every": 2, "pretraining.steps": 5}
    trial = apply_settings(load_study_config(draft.study_file).trial, few)
    place = Place(tmp_path / "trial", tmp_path / "sources", None, torch.device("cpu"))
    reporter = Last()
    outcome = run_trial(trial, place, reporter)
    assert (outcome.step, outcome.oracle) == (4, None)
    assert {"score/class_ami", "score/entropy"} <= reporter.report_.metrics.keys()
    assert reporter.report_.predictions.shape == (9, 10)


def test_the_sheet_shows_both_folders(draft: Draft) -> None:
    with Image.open(draft.sheet) as sheet:
        colours = sheet.convert("RGB").getcolors(1 << 20)
    assert len(colours) > 100


def test_nothing_is_overwritten_unless_forced(draft: Draft) -> None:
    before = draft.study_file.read_bytes()
    with pytest.raises(ValueError, match=r"there is .*study.yaml and .*study.png already"):
        draft_study(draft.pair, draft.study_file)
    with pytest.raises(ValueError, match="name: a name takes letters"):
        draft_study(draft.pair, draft.study_file, name="no name", force=True)
    assert draft.study_file.read_bytes() == before
    assert sorted(each.name for each in draft.study_file.parent.glob("*study*")) == [
        "study.png",
        "study.yaml",
    ]
    with pytest.raises(ValueError, match=r"ends in \.yaml"):
        draft_study(draft.pair, draft.study_file.with_suffix(".txt"))


@pytest.mark.parametrize("machine", [LAPTOP, SERVER], ids=["cpu", "gpu"])
@pytest.mark.parametrize("size", [(8, 8), (28, 28), (40, 33), (41, 64), (600, 800), (2000, 90)])
@pytest.mark.parametrize("problem", ["classification", "segmentation"])
def test_network_and_size_go_together_whatever_the_images_are(
    tmp_path: Path, problem: str, size: tuple[int, int], machine: Machine
) -> None:
    pair = FolderPair(
        survey(size=size, problem=problem), survey("scans", size=size, problem=problem), ()
    )
    trial = written(tmp_path, pair, machine)
    check_trial(trial, workers=1)
    height, width = trial.task.size or (0, 0)
    with torch.device("meta"):
        network = build_network(trial.task.network, in_channels=3, classes=2)
        logits = network(torch.rand(2, 3, height, width))
    assert logits.shape[1] == 2
    assert (trial.task.network == "lenet") == (problem == "classification" and max(size) <= 40)


def test_a_gpu_gets_larger_images_and_more_trials() -> None:
    pair = FolderPair(survey(size=(300, 400)), survey("scans", size=(240, 320)), ())
    slow, fast = plan_study(pair, LAPTOP), plan_study(pair, SERVER)
    assert (slow.size, fast.size) == ((64, 64), (160, 224))
    assert (slow.trials, fast.trials) == (8, 24)
    assert slow.amounts.gpus == 0 < fast.amounts.gpus
    assert plan_study(pair, LAPTOP, trials=3).trials == 3


def test_pretraining_grows_with_the_source_within_bounds() -> None:
    steps = [
        plan_study(FolderPair(survey(images=n), survey(), ()), LAPTOP).pretraining_steps
        for n in (30, 5_000, 10**6)
    ]
    assert steps == [300, 800, 2000]


def test_frames_and_labels_make_a_segmentation(tmp_path: Path) -> None:
    write_frames(tmp_path / "day", 10)
    write_frames(tmp_path / "night", 6, labels=None)
    pair = look_at_folders(tmp_path / "day", tmp_path / "night")
    trial = written(tmp_path, pair)
    assert (trial.task.network, trial.task.size) == ("erfnet-encoder", (48, 64))
    assert (tmp_path / "study.png").is_file()


# Whatever folders and classes are called.

NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=40
)


@given(NAMES, NAMES, st.lists(NAMES, min_size=2, max_size=4, unique=True))
@example("-rf", "a: b # c", ["no", "null"])
@example("'\"\\", "*&!%@`", ["\n", "\u2028"])
@example("~", "%s {x} [y]", ["\ufeff", "\x85\x7f"])
@example("été 日本 🙂", "\ttabs\r\n", ["1e3", "0100"])
def test_every_name_comes_back_from_the_file(
    tmp_path_factory: pytest.TempPathFactory, source: str, target: str, classes: list[str]
) -> None:
    pair = FolderPair(
        survey(source, classes=tuple(classes)),
        survey(target, classes=tuple(classes)),
        (f"a note on {source} and {classes}",),
    )
    name = study_name(source, target)
    file = tmp_path_factory.getbasetemp() / "names.yaml"
    text = study_text(pair, plan_study(pair, LAPTOP), name, f"gam-ray run {target}")
    file.write_text(text, encoding="utf-8")
    study = load_study_config(file)
    assert study.name == name
    assert study.trial.task.source == f"image-folder:/data/{source}"
    assert study.trial.task.target == f"image-folder:/data/{target}"
    assert set(name) <= {*string.ascii_letters, *string.digits, *"._-"}


def test_a_folder_whose_name_is_no_unicode_is_told() -> None:
    pair = FolderPair(survey("a\udcff"), survey(), ())
    with pytest.raises(ValueError, match="Rename the folder"):
        study_text(pair, plan_study(pair, LAPTOP), "x", "gam-ray run x")


def test_a_folder_that_begins_with_a_tilde_or_a_dash_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(Path("-a"), [f"{name}/{row}.png" for name in "xy" for row in range(3)])
    write_images(Path("b~"), [f"{row}.png" for row in range(4)])
    pair = look_at_folders(Path("-a"), Path("b~"))
    assert pair.source.domain == f"image-folder:{tmp_path}/-a"
    assert written(tmp_path, pair).task.target == f"image-folder:{tmp_path}/b~"
