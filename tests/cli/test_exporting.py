"""`gam-ray export` and `gam-ray predict`, on a study whose networks were never trained."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import Result
from exportable import finished_study, write_images
from typer.testing import CliRunner

from gam_ray.cli import app
from gam_ray.config import StudyConfig
from gam_ray.study.store import StudyStore
from gam_ray.tracking import registry
from gam_ray.training.single import OUTCOME

STUDY = {
    "name": "digits",
    "trial": {"task": {"source": "rendered-digits", "target": "handwritten-digits"}},
    "space": {"adaptation.weight": {"log": [0.1, 10]}},
    "search": {"trials": 2},
    "objective": {"score": "class_ami"},
}
Run = Callable[..., Result]


def put_study(storage: Path) -> StudyStore:
    """A finished study: no adaptation, a trial that is better, and one that the guard distrusts."""
    return finished_study(StudyConfig.from_mapping({**STUDY, "storage": str(storage)}))


def invoke(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyStore, Path, dict[str, Any]]:
    """A study, the folder of its exported model, and what export printed."""
    root = tmp_path_factory.mktemp("studies")
    store = put_study(root)
    done = invoke("export", store.folder, "--output", root / "models" / "a b", "--json")
    assert done.exit_code == 0, done.stderr
    return store, root / "models" / "a b", json.loads(done.stdout)


def test_export_writes_the_choice_and_a_card_that_keeps_the_oracle_apart(
    exported: tuple[StudyStore, Path, dict[str, Any]],
) -> None:
    store, folder, told = exported
    chosen = store.trials()[1].record()
    assert {file.name for file in folder.iterdir()} == {
        "model.pt2", "model.onnx", "model.json", "MODEL_CARD.md",
    }  # fmt: skip
    assert told["folder"] == str(folder)
    assert told["registered"] is None
    assert json.loads((folder / "model.json").read_text()) == told["model"]
    assert told["model"]["trial"] == chosen.key
    assert told["model"]["class_names"] == list("0123456789")
    assert told["model"]["checked_on"] == "64 held-out images of handwritten-digits"
    assert told["model"]["input"]["resize"] == "torch"
    card = (folder / "MODEL_CARD.md").read_text()
    scores, oracle = card.split("What target labels say of it")
    assert "chose it without target labels. Its class_ami is 0.2500" in scores
    assert "| class_ami | 0.2500 |" in scores
    assert "0.9" not in scores
    assert "(the oracle: accuracy, or mean IoU and its parts). Shown only" in oracle
    assert "| test | 62.5 % |" in oracle
    assert "nothing against it" in card


def test_a_model_is_predicted_with_and_bad_images_are_named(
    exported: tuple[StudyStore, Path, dict[str, Any]], tmp_path: Path
) -> None:
    _, model, _ = exported
    write_images(tmp_path / "in", [(28, 28), (40, 30), (1, 1)], ["L", "RGB"])
    done = invoke("predict", tmp_path / "in", "--model", model)
    assert done.exit_code == 0
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [Path(row["file"]).name for row in rows] == ["00.png", "01.png", "02.png"]
    assert all(row["class"] in set("0123456789") for row in rows)
    assert "3 of 3 images predicted" in done.stderr
    (tmp_path / "in" / "01.png").write_text("[red]no image")
    table = tmp_path / "out" / "classes.jsonl"
    bad = invoke("predict", tmp_path / "in", "--model", model, "--json", "--output", table)
    assert bad.exit_code == 1
    assert bad.stdout == ""
    assert f"not read: {tmp_path}/in/01.png: cannot identify image file" in bad.stderr
    lines = [json.loads(line) for line in table.read_text().splitlines()]
    assert [line.get("class") for line in lines] == [rows[0]["class"], None, rows[2]["class"]]


def test_the_code_in_the_card_says_what_predict_says(
    exported: tuple[StudyStore, Path, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, model, _ = exported
    (photo,) = write_images(tmp_path / "in", [(28, 28)], ["RGBA"])
    shutil.copy(model / "model.onnx", tmp_path)
    photo.rename(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (model / "MODEL_CARD.md").read_text(), re.DOTALL)
    found: dict[str, Any] = {}
    exec(code, found)  # noqa: S102 - our own
    line = invoke("predict", "photo.png", "--model", model, "--json", "--probabilities").stdout
    expected = list(json.loads(line)["probabilities"].values())
    assert found["probabilities"][0].tolist() == pytest.approx(expected, abs=1e-2)


def test_what_is_no_image_and_no_model_is_refused(
    exported: tuple[StudyStore, Path, dict[str, Any]], tmp_path: Path
) -> None:
    _, model, _ = exported
    nothing = invoke("predict", tmp_path / "gone", "--model", model)
    assert (nothing.exit_code, "no folder with images" in nothing.stderr) == (2, True)
    (file,) = write_images(tmp_path / "in", [(2, 2)], ["L"])
    no_model = invoke("predict", file, "--model", tmp_path)
    assert (no_model.exit_code, "it is no exported model" in no_model.stderr) == (2, True)
    (tmp_path / "model.json").write_text('{"format": 2}')
    newer = invoke("predict", file, "--model", tmp_path)
    assert (newer.exit_code, "of a newer gam-ray" in newer.stderr) == (2, True)


def test_one_trial_is_exported_by_number_and_its_card_warns(
    exported: tuple[StudyStore, Path, dict[str, Any]], tmp_path: Path
) -> None:
    store, _, _ = exported
    done = invoke("export", store.folder, "--trial", 2, "--output", tmp_path / "model")
    assert done.exit_code == 0, done.stderr
    card = (tmp_path / "model" / "MODEL_CARD.md").read_text()
    assert "It was asked for by its name (`--trial 2`), whatever the study chooses" in card
    assert "do not trust it:**\n\n- predicted classes are 0.90 away" in card
    unknown = invoke("export", store.folder, "--trial", "9", "--output", tmp_path / "other")
    assert unknown.exit_code == 2
    assert "one of these numbers: 0, 1, 2" in unknown.stderr
    assert not (tmp_path / "other").exists()


def test_a_folder_of_something_else_and_a_lost_network_are_refused(
    exported: tuple[StudyStore, Path, dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").touch()
    refused = invoke("export", exported[0].folder, "--output", tmp_path)
    assert refused.exit_code == 2
    assert "would be lost" in refused.stderr
    store = put_study(tmp_path / "studies")
    store.trials()[1].adapted.unlink()
    lost = invoke("export", store.folder, "--output", tmp_path / "model")
    assert lost.exit_code == 2
    assert "left no network" in lost.stderr
    assert [each.name for each in tmp_path.iterdir() if "model" in each.name] == []


def test_a_trial_without_a_study_is_exported_from_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = put_study(tmp_path / "studies").trials()[1]
    config = trial.record().config
    folder = tmp_path / "trials" / config.key()
    assert invoke("export", trial.folder).exit_code == 2
    folder.mkdir(parents=True)
    unfinished = invoke("export", folder)
    assert unfinished.exit_code == 2
    assert "nor a trial that `gam-ray train` has finished" in unfinished.stderr
    trial.adapted.rename(folder / "adapted.pt")
    outcome = {
        "key": config.key(), "config": config.to_mapping(), "scores": {"class_ami": 0.5},
        "metrics": {"guard/agreement": 0.0}, "oracle": None,
    }  # fmt: skip
    (folder / OUTCOME).write_text(json.dumps(outcome))
    done = invoke("export", folder, "--output", tmp_path / "model")
    assert done.exit_code == 0, done.stderr
    card = (tmp_path / "model" / "MODEL_CARD.md").read_text()
    assert "its settings were given, not chosen" in card
    assert "agreement with the source network is 0.00" in card
    assert "there were no target labels" in card
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    nowhere = invoke("export", folder, "--output", tmp_path / "other", "--register", "digits")
    assert nowhere.exit_code == 2
    assert "set MLFLOW_TRACKING_URI" in nowhere.stderr
    assert not (tmp_path / "other").exists()
    assert "is none; leave it out" in invoke("export", folder, "--trial", "1").stderr


@pytest.mark.slow
def test_a_registered_model_is_loaded_by_mlflow_alone(
    exported: tuple[StudyStore, Path, dict[str, Any]], tmp_path: Path
) -> None:
    import mlflow

    store, _, _ = exported
    words = ("export", store.folder, "--output", tmp_path / "model", "--json", "--register")
    done = invoke(*words, "digits")
    assert done.exit_code == 0, done.stderr
    registered = json.loads(done.stdout)["registered"]
    assert registered["uri"] == "models:/digits/1"
    loaded = mlflow.pyfunc.load_model(registered["uri"])
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 28, 28), dtype=np.uint8)
    program = torch.export.load(tmp_path / "model" / "model.pt2").module()
    expected = program(torch.from_numpy(images)).detach().numpy()
    np.testing.assert_allclose(loaded.predict(images)["probabilities"], expected, atol=1e-5)
    assert loaded.metadata.get_input_schema().input_names() == ["images"]
    version = mlflow.MlflowClient().get_model_version("digits", "1")
    assert version.description == (tmp_path / "model" / "MODEL_CARD.md").read_text()
    assert list((store.folder / "artifacts").rglob("MLmodel"))
    again = json.loads(invoke(*words, "digits").stdout)
    assert again["registered"]["uri"] == "models:/digits/2"
    assert again["logged"] == json.loads(done.stdout)["logged"], "the same file is logged once"
    refused = invoke(*words, "a/b")
    assert refused.exit_code == 1
    assert f"the model is in {tmp_path}/model, but MLflow at sqlite" in refused.stderr


@pytest.mark.slow
def test_export_logs_the_model_to_the_trials_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    from gam_ray.tracking import MLflowSink, StudyStarted, TrackingQueue, TrialStarted

    store = put_study(tmp_path)
    chosen = store.trials()[1].record()
    queue = TrackingQueue(store.tracking)
    queue.append(StudyStarted("digits", {}, {}, 1))
    queue.append(TrialStarted(chosen.key, chosen.name, {}, {}, 2))
    uri = f"sqlite:///{store.folder / 'mlflow.db'}"
    sink = MLflowSink(store.tracking, tracking_uri=uri, experiment="digits", study="digits")
    sink.start()
    assert sink.close(120).waiting == 0
    run_id = sink.run_ids()[chosen.key]
    words = ("export", store.folder, "--output", tmp_path / "model")
    told = [json.loads(invoke(*words, "--json").stdout) for _ in range(2)]
    assert told[0]["registered"] is None
    assert told[0]["logged"]["run_id"] == run_id
    assert told[0]["logged"] == told[1]["logged"], "the same file is logged once"
    client = mlflow.MlflowClient(uri)
    (output,) = client.get_run(run_id).outputs.model_outputs
    assert f"models:/{output.model_id}" == told[0]["logged"]["uri"]
    signature = mlflow.models.get_model_info(told[0]["logged"]["uri"]).signature
    assert signature.inputs.input_names() == ["images"]
    assert client.get_run(run_id).info.status == "RUNNING", "a run stays as it was"

    def fail(*_: Any) -> None:
        raise RuntimeError("it is down")

    monkeypatch.setattr(registry, "_run_of_trial", fail)
    away = invoke(*words)
    assert away.exit_code == 0
    assert f"not in MLflow: MLflow at {uri} did not log model.onnx: it is down" in away.stderr
    assert (tmp_path / "model" / "model.onnx").exists()
