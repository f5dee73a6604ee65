"""Study files that are damaged, or meant to do harm; and what must never be shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gam_ray.config import ConfigError, load_study_config, load_trial_config
from gam_ray.config.secrets import has_secret, masked, secret_paths

GOOD = """\
name: digits
trial:
  task: {source: mnist, target: usps, network: lenet}
  adaptation: {form: release, layers: [fc3, fc4], moments: {kind: running, momentum: 0.1}}
  steps: 2000
  augmentation: {flip: false, rotate: 10.0}
space:
  adaptation.weight: {log: [1e-3, 10]}
  adaptation.layers: {subset: [conv1, fc3], min: 1}
  adaptation.moments.momentum: {float: [0, 0.5], when: {adaptation.moments.kind: running}}
search: {sampler: tpe, trials: 7, seed: 0}
objective: {score: [ensv, class_ami], seeds: 2}
student: {teachers: 3}
schedule: {kind: asha, min_steps: 500}
resources: {workers: 2, gpus_per_worker: 1}
tracking: {uri: "http://mlflow:5000", experiment: digits}
storage: /mnt/studies
"""
VALUES = ("{}", "[]", "[[1]]", "{a: {b: 1}}", "null", "-1", "1e400", '"\\ud800"', '"\\0"', "*a", "")
PIECES = st.sampled_from([*VALUES, *GOOD.split(), *GOOD.splitlines(keepends=True)])
EDITS = st.lists(
    st.tuples(st.integers(0, len(GOOD)), st.integers(0, 30), PIECES), min_size=1, max_size=4
)
LINES = st.lists(
    st.tuples(st.integers(1, 16), st.sampled_from(VALUES)), min_size=1, max_size=3
)  # line, value


def refused(file: Path) -> str:
    with pytest.raises(ConfigError) as error:
        load_study_config(file)
    return str(error.value)


def loads_or_is_refused(file: Path) -> None:
    for load in (load_study_config, load_trial_config):
        try:
            load(file)
        except ConfigError as error:
            assert str(error)  # noqa: PT017 - it need not be raised


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile") / "study.yaml"


@given(edits=EDITS)
def test_a_damaged_study_file_is_a_study_or_a_config_error(
    file: Path, edits: list[tuple[int, int, str]]
) -> None:
    text = GOOD
    for start, length, piece in edits:
        text = text[:start] + piece + text[start + length :]
    file.write_text(text, encoding="utf-8")
    loads_or_is_refused(file)


@given(changes=LINES)
def test_a_value_of_another_kind_is_a_config_error(
    file: Path, changes: list[tuple[int, str]]
) -> None:
    lines = GOOD.splitlines()
    for number, value in changes:
        key = lines[number].split(":")[0]
        lines[number] = f"{key}: {value}"
    file.write_text("\n".join(lines), encoding="utf-8")
    loads_or_is_refused(file)


@pytest.mark.parametrize("form", ["[release]", "{a: 1}", "3", "null"])
def test_a_form_that_is_no_text_is_a_config_error(file: Path, form: str) -> None:
    file.write_text(GOOD.replace("form: release", f"form: {form}"), encoding="utf-8")
    assert "trial.adaptation.form" in refused(file)


def test_a_few_aliases_that_stand_for_billions_are_refused_at_once(file: Path) -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    file.write_text("\n".join(lines))
    assert "at most 50,000 values with its aliases written out" in refused(file)


def test_a_huge_file_and_one_without_an_end_are_not_read(tmp_path: Path) -> None:
    huge = tmp_path / "huge.yaml"
    huge.write_text("name: a\n" + "#" * 300_000)
    assert "must have at most 262,144 bytes, but has 300,008" in refused(huge)
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    assert "must be a file" in refused(pipe)
    assert refused(tmp_path)


@pytest.mark.parametrize(
    "space",
    [
        "/etc/passwd",
        "/etc/space.yaml",
        "../../space.yaml",
        "spaces/../../../space.yaml",
        "../notes.txt",
        "~/space.yaml/../secret",
        '"\\0.yaml"',
    ],
)
def test_a_space_that_is_elsewhere_is_not_opened(tmp_path: Path, space: str) -> None:
    folder = tmp_path / "project" / "jobs"
    folder.mkdir(parents=True)
    (tmp_path / "space.yaml").write_text("batch_size: {int: [1, 2]}\n")
    (tmp_path / "project" / "notes.txt").write_text("batch_size: {int: [1, 2]}\n")
    start, _, rest = GOOD.partition("space:\n")
    study = folder / "study.yaml"
    study.write_text(f"{start}space: {space}\nsearch: {rest.split('search: ')[1]}")
    assert "space: must be a .yaml file beside the study file" in refused(study)


def test_a_link_does_not_lead_out_and_the_folder_beside_is_in(tmp_path: Path) -> None:
    folder = tmp_path / "project" / "jobs"
    folder.mkdir(parents=True)
    (tmp_path / "space.yaml").write_text("batch_size: {int: [1, 2]}\n")
    study = folder / "study.yaml"
    study.write_text("name: a\ntrial: {task: {source: a, target: b}}\nspace: linked.yaml\n")
    (folder / "linked.yaml").symlink_to(tmp_path / "space.yaml")
    assert "must be a .yaml file beside" in refused(study)
    (tmp_path / "project" / "spaces").mkdir()
    (tmp_path / "project" / "spaces" / "space.yaml").write_text("batch_size: {int: [1, 2]}\n")
    study.write_text(study.read_text().replace("linked.yaml", "../spaces/space.yaml"))
    assert list(load_study_config(study).space) == ["batch_size"]


def test_a_password_in_the_tracking_address_is_refused_without_being_shown(file: Path) -> None:
    file.write_text(GOOD.replace("http://mlflow", "http://ann:hunter22@mlflow"))
    told = refused(file)
    assert "tracking.uri" in told
    assert "MLFLOW_TRACKING_PASSWORD" in told
    assert "hunter22" not in told


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://ann:pw@host:5000/x", "http://***@host:5000/x"),
        ("see postgresql://ann:p@ss@db/x now", "see postgresql://***@db/x now"),
        ("https://token@host", "https://***@host"),
        ("http://h/?a=1&token=abc&b=2", "http://h/?a=1&token=***&b=2"),
        ("http://h/a@b, ann@mail", "http://h/a@b, ann@mail"),
        ("http://head:8265", "http://head:8265"),
    ],
)
def test_credentials_in_addresses_are_masked(text: str, shown: str) -> None:
    assert masked(text) == shown


def test_secrets_of_the_environment_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "abcdef0123456789")
    assert masked("Bearer abcdef0123456789!") == "Bearer ***!"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "run")
    assert masked("a run") == "a run"


def test_a_user_name_alone_is_no_secret() -> None:
    assert not has_secret("postgresql://ann@db/x")
    assert has_secret("postgresql://ann:pw@db/x")
    assert list(secret_paths({"a": [{"b": "s3://k:s@x"}], "c": "http://x"})) == ["a.0.b"]
