"""Study files: what loads, and how everything that is wrong is told."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gam_ray.config import (
    ChoiceParameter,
    ConfigError,
    RangeParameter,
    StudyConfig,
    SubsetParameter,
    load_study_config,
    load_trial_config,
)

TRIAL = "trial: {task: {source: mnist, target: usps}}"
STUDY = f"name: digits\n{TRIAL}\n"
SPACE = """\
adaptation.weight: {log: [1e-3, 10]}
adaptation.layers: {subset: [conv1, fc3], min: 1}
adaptation.adversary: {choice: [gan, lsgan]}
adaptation.moments.momentum: {float: [0, 0.5], when: {adaptation.moments.kind: running}}
batch_size: {int: [32, 256]}
"""


def load(folder: Path, study: str, space: str | None = None) -> StudyConfig:
    (folder / "study.yaml").write_text(study, encoding="utf-8")
    if space is not None:
        (folder / "space.yaml").write_text(space, encoding="utf-8")
    return load_study_config(folder / "study.yaml")


def problems(folder: Path, study: str, space: str | None = None) -> list[tuple[Any, ...]]:
    """(file, line, path, message) of everything that is wrong, in the order of the places."""
    with pytest.raises(ConfigError) as error:
        load(folder, study, space)
    found = [(p.file.name, p.line or 0, p.path, p.message) for p in error.value.problems]
    return sorted(found)


def places(folder: Path, study: str, space: str | None = None) -> list[tuple[Any, ...]]:
    return [problem[:3] for problem in problems(folder, study, space)]


def messages(folder: Path, study: str, space: str | None = None) -> str:
    return "\n".join(problem[3] for problem in problems(folder, study, space))


def test_a_study_file_and_its_space_file_are_one_study(tmp_path: Path) -> None:
    study = load(tmp_path, f"{STUDY}space: space.yaml\nsearch: {{trials: 7}}\n", SPACE)
    assert (study.name, study.trial.task.target, study.search.trials) == ("digits", "usps", 7)
    assert study.trial.task.network == "lenet"
    by_path = dict(study.space.items())
    assert by_path["adaptation.weight"] == RangeParameter(log=(0.001, 10.0))
    assert by_path["adaptation.layers"] == SubsetParameter(subset=("conv1", "fc3"))
    assert by_path["adaptation.adversary"] == ChoiceParameter(choice=("gan", "lsgan"))
    momentum = by_path["adaptation.moments.momentum"]
    assert isinstance(momentum, RangeParameter)
    assert (momentum.kind, momentum.bounds) == ("float", (0, 0.5))
    assert momentum.when == {"adaptation.moments.kind": "running"}
    assert by_path["batch_size"] == RangeParameter(int=(32, 256))


def test_a_space_may_stand_in_the_study_file(tmp_path: Path) -> None:
    inline = "".join(f"  {line}\n" for line in SPACE.splitlines())
    assert load(tmp_path, f"{STUDY}space:\n{inline}") == load(
        tmp_path, f"{STUDY}space: space.yaml\n", SPACE
    )


def test_the_space_file_is_looked_for_beside_the_study_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(load(tmp_path, f"{STUDY}space: space.yaml\n", SPACE).space) == 5


def test_every_problem_of_both_files_is_told_at_once(tmp_path: Path) -> None:
    study = """\
name: -digits
trial:
  task: {source: mnist}
  steps: 0
  adaptation:
    weight: heavy
    layers: [fc3, fc3]
space: space.yaml
search: {sampler: grid, trials: 1.5}
resources:
  workers: 2
  gpus_per_worker: 0.5
storage: 7
"""
    space = """\
adaptation.wieght: {log: [1, 2]}
adaptation.drift: {log: [0, 1]}
adaptation.layers: {subset: [fc3]}
optimizer.beta1: {float: [0.0, 1.0]}
"""
    assert places(tmp_path, study, space) == [
        ("space.yaml", 1, "adaptation.wieght"),
        ("space.yaml", 2, "adaptation.drift"),
        ("space.yaml", 3, "adaptation.layers.subset"),
        ("space.yaml", 4, "optimizer.beta1"),
        ("study.yaml", 1, "name"),
        ("study.yaml", 3, "trial.task.target"),
        ("study.yaml", 4, "trial.steps"),
        ("study.yaml", 6, "trial.adaptation.weight"),
        ("study.yaml", 9, "search.sampler"),
        ("study.yaml", 9, "search.trials"),
        ("study.yaml", 10, "resources"),
        ("study.yaml", 13, "storage"),
    ]


def test_the_error_text_has_a_line_for_each_problem(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, f"{STUDY}space: {{}}\nsearch: {{seed: -1}}\nnmae: x\n")
    file = tmp_path / "study.yaml"
    assert str(error.value).splitlines() == [
        f"{file}:4: search.seed: input should be greater than or equal to 0, but got -1",
        f"{file}:5: nmae: unknown key 'nmae'; did you mean 'name'?",
    ]


@pytest.mark.parametrize(
    ("study", "place", "message"),
    [
        ("sapce: {}\nspace: {}", (3, "sapce"), "'sapce'; did you mean 'space'?"),
        (
            "space: {}\nschedule: {knid: asha}",
            (4, "schedule.knid"),
            "'knid'; did you mean 'kind'?",
        ),
        (
            "space: {adaptation.weight: {lgo: [1, 2], float: [1, 2]}}",
            (3, "space.adaptation.weight.lgo"),
            "'lgo'; did you mean 'log'?",
        ),
        (
            "space:\n  seed: {int: [0, 3]}\n  adaptation.layers: {subset: [fc3, fc4], mni: 1}",
            (5, "space.adaptation.layers.mni"),
            "'mni'; did you mean 'min'?",
        ),
        (
            "space:\n  adaptation.wieght: {log: [1, 2]}",
            (4, "space.adaptation.wieght"),
            "'adaptation.wieght'; did you mean 'adaptation.weight'?",
        ),
        (
            "space: {adaptation.drift: {log: [1, 2], when: {adaptation.knid: general}}}",
            (3, "space.adaptation.drift"),
            "when: unknown setting 'adaptation.knid'; did you mean 'adaptation.kind'?",
        ),
    ],
)
def test_a_misspelt_key_is_told_with_its_neighbour(
    tmp_path: Path, study: str, place: tuple[int, str], message: str
) -> None:
    ((_, line, path, text),) = problems(tmp_path, f"{STUDY}{study}\n")
    assert (line, path) == place
    assert text.endswith(message)


def test_a_key_misspelt_deep_inside_is_told_with_its_neighbour(tmp_path: Path) -> None:
    study = """\
name: digits
trial:
  task: {source: mnist, target: usps}
  adaptation:
    moments:
      momentun: 0.1
space: {}
"""
    ((_, line, path, text),) = problems(tmp_path, study)
    assert (line, path) == (6, "trial.adaptation.moments.momentun")
    assert text == "unknown key 'momentun'; did you mean 'momentum'?"


def test_a_name_like_no_other_is_told_with_all_there_are(tmp_path: Path) -> None:
    assert "unknown key 'qqq'; known: kind, min_steps, reduction_factor" in messages(
        tmp_path, f"{STUDY}space: {{}}\nschedule: {{qqq: 1}}\n"
    )


def test_keys_that_stand_twice_are_refused(tmp_path: Path) -> None:
    study = f"{STUDY}space: {{}}\nsearch:\n  trials: 3\n  seed: 1\n  trials: 4\nname: again\n"
    assert problems(tmp_path, study) == [
        ("study.yaml", 7, "search.trials", "stands twice, first on line 5"),
        ("study.yaml", 8, "name", "stands twice, first on line 1"),
    ]


@pytest.mark.parametrize(
    ("written", "value"),
    [("1e-3", 0.001), ("1.5E+2", 150.0), (".5", 0.5), ("3", 3.0), ("+2.", 2.0)],
)
def test_numbers_are_those_of_yaml_1_2(tmp_path: Path, written: str, value: float) -> None:
    file = tmp_path / "trial.yaml"
    file.write_text(f"task: {{source: a, target: b}}\nadaptation: {{weight: {written}}}\n")
    assert load_trial_config(file).adaptation.weight == value


@pytest.mark.parametrize("written", ["no", "yes", "on", "2018-09-08", "1:30", "1_000", "0x1F"])
def test_what_yaml_1_1_converts_is_text(tmp_path: Path, written: str) -> None:
    study = load(tmp_path, f"{STUDY}space: {{}}\nstorage: {written}\n")
    assert study.storage == written


def test_a_leading_zero_makes_no_octal_number(tmp_path: Path) -> None:
    assert load(tmp_path, f"{STUDY}space: {{}}\nsearch: {{trials: 0100}}\n").search.trials == 100


@pytest.mark.parametrize(
    ("setting", "written"),
    [("search: {trials: '3'}", "'3'"), ("search: {trials: 3.0}", "3.0"), ("storage: 3", "3")],
)
def test_values_are_not_converted_silently(tmp_path: Path, setting: str, written: str) -> None:
    assert messages(tmp_path, f"{STUDY}space: {{}}\n{setting}\n").endswith(f"but got {written}")


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ("adaptation.weight: {float: [-1, 1]}", "-1.0 is refused: Input should be greater"),
        ("optimizer.beta1: {float: [0.5, 1]}", "1.0 is refused: Input should be less than 1"),
        ("steps: {float: [1, 2.5]}", "2.5 is refused: Input should be a valid integer"),
        ("adaptation.adversary: {choice: [gan, wgan]}", "'wgan' is refused: Input should be"),
        ("adaptation.gaussian: {choice: [true, 1]}", "1 is refused: Input should be a valid bool"),
        ("adaptation.kind: {subset: [none, general]}", "['none', 'general'] is refused"),
        (
            "adaptation.drift: {log: [1, 2], when: {adaptation.moments.kind: runing}}",
            "when: adaptation.moments.kind='runing' is refused: Input should be 'initial'",
        ),
    ],
)
def test_edges_that_a_setting_refuses_are_refused(
    tmp_path: Path, parameter: str, message: str
) -> None:
    ((file, line, path, text),) = problems(tmp_path, f"{STUDY}space: space.yaml\n", parameter)
    assert (file, line, path) == ("space.yaml", 1, parameter.split(":", maxsplit=1)[0])
    assert text.startswith(message)


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ("{log: [1, 2], int: [1, 2]}", "give exactly one of log, float and int, but got log, int"),
        ("{}", "give exactly one of log, float and int, but got none"),
        ("{float: [2, 1]}", "low < high must hold, but got low=2.0, high=1.0"),
        ("{log: [0, 1]}", "a log range must start above zero, but got low=0.0"),
        ("{subset: [a, b, a]}", "names must be distinct, but got a, b, a"),
        ("{subset: [a, b], min: 3}", "min must be at most the number of names, but got min=3 of 2"),
        ("{choice: [a, [b], c]}", "must be text, a number, true or false, but got ['b']"),
        ("3", "input should be an object, but got 3"),
    ],
)
def test_a_parameter_must_make_sense_by_itself(
    tmp_path: Path, parameter: str, message: str
) -> None:
    assert messages(tmp_path, f"{STUDY}space: {{adaptation.weight: {parameter}}}\n") == message


def test_a_broken_trial_does_not_hide_a_broken_space(tmp_path: Path) -> None:
    study = "name: digits\ntrial: [1]\nspace: {adaptation.wieght: {log: [1, 2]}}\n"
    assert places(tmp_path, study) == [
        ("study.yaml", 2, "trial"),
        ("study.yaml", 3, "space.adaptation.wieght"),
    ]


def test_a_missing_space_file_is_told_along_with_the_rest(tmp_path: Path) -> None:
    found = problems(tmp_path, f"{STUDY}space: nowhere.yaml\nsearch: {{trials: 0}}\n")
    assert [problem[:3] for problem in found] == [
        ("nowhere.yaml", 0, ""),
        ("study.yaml", 4, "search.trials"),
    ]
    assert found[0][3] == "No such file or directory"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [1\n", "not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("", "the file must hold a mapping, but holds NoneType"),
        ("- 1\n", "the file must hold a mapping, but holds list"),
        ("a: 1\n---\nb: 2\n", "not valid YAML: but found another document"),
        ("name: 1e999\n", "must be text, a finite number or a list, got inf"),
        ("1: 2\n", "keys must be text, but got 1"),
        ("a: &a [*a]\n", "nested too deeply, or an alias stands within what it names"),
        ("a: " + "[" * 500, "nested too deeply, or an alias stands within what it names"),
    ],
)
def test_a_file_that_is_no_plain_mapping_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    assert messages(tmp_path, text) == message


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_bytes(b"name: \xff\n")
    with pytest.raises(ConfigError, match="not valid YAML: 'utf-8' codec"):
        load_study_config(file)


def test_a_trial_file_tells_its_problems_in_the_same_way(tmp_path: Path) -> None:
    file = tmp_path / "trial.yaml"
    file.write_text("task: {source: a, target: b}\nstesp: 3\noptimizer: {beta1: 1}\n")
    with pytest.raises(ConfigError) as error:
        load_trial_config(file)
    assert {(p.line, p.path) for p in error.value.problems} == {
        (2, "stesp"),
        (3, "optimizer.beta1"),
    }


# Anything at all: bytes, text, tokens of YAML, and data whose keys are those of studies.

NAMES = """
name trial task source target adaptation layers weight moments kind space search objective score
schedule resources workers storage adaptation.weight adaptation.layers steps log float int choice
subset min when range
"""
KEYS = st.sampled_from(NAMES.split())
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | KEYS
DATA = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
TAGS = ("!!int ", "!!bool ", "!!timestamp ", "!!set ", "!!binary ")
SIGNS = (*"[]{},:&*!|>%@`'\"#-?~ \n", "\n  ", ": ", "- ", "a", "<<", "&a ", "*a", "1e9", "---\n")
TOKENS = st.lists(st.sampled_from([*SIGNS, *TAGS, "name", "space", "trial", STUDY]), max_size=25)
TEXTS = st.text(max_size=60) | TOKENS.map("".join) | DATA.map(json.dumps)
FILES = st.binary(max_size=60) | TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any")


def loads_or_is_refused(file: Path) -> None:
    try:
        study = load_study_config(file)
    except ConfigError as error:
        told = str(error)
    else:
        told = study.canonical()
    assert told


@given(content=FILES)
@example(content=b"a: !!int ''")
@example(content=b"a: !!timestamp x")
@example(content=b"\xef\xbb\xbf? [a]\n: 1")
def test_any_bytes_are_a_study_or_a_config_error(folder: Path, content: bytes) -> None:
    (folder / "study.yaml").write_bytes(content)
    loads_or_is_refused(folder / "study.yaml")


@given(content=FILES)
def test_any_bytes_are_a_space_or_a_config_error(folder: Path, content: bytes) -> None:
    (folder / "with-space.yaml").write_text(f"{STUDY}space: any.yaml\n")
    (folder / "any.yaml").write_bytes(content)
    loads_or_is_refused(folder / "with-space.yaml")


@given(data=st.dictionaries(KEYS, DATA, max_size=6))
@example(data={"steps": {"int": [10**400, 1]}})
@example(data={"adaptation.weight": {"log": [1, 10**400]}})
@example(data={"adaptation.weight": 3})
def test_any_space_in_a_good_study_is_a_study_or_a_config_error(folder: Path, data: Any) -> None:
    content = {"name": "a", "trial": {"task": {"source": "a", "target": "b"}}, "space": data}
    (folder / "data.yaml").write_text(json.dumps(content), encoding="utf-8")
    loads_or_is_refused(folder / "data.yaml")


# Forms


def written(tmp_path: Path, adaptation: str) -> Path:
    file = tmp_path / "trial.yaml"
    file.write_text(f"task: {{source: mnist, target: usps}}\nadaptation: {adaptation}\n")
    return file


def test_the_release_form_is_the_authors_code_and_what_is_written_wins(tmp_path: Path) -> None:
    found = load_trial_config(written(tmp_path, "{form: release, drift: 0}")).adaptation
    assert [found.weight_of(layer) for layer in ("fc3", "fc4")] == [0.1, 1.0]
    assert (found.adversary, found.gaussian) == ("inverted", False)
    assert (found.drift, found.drift_reduction) == (0, "mean")


def test_the_paper_form_is_the_default(tmp_path: Path) -> None:
    found = load_trial_config(written(tmp_path, "{form: paper}")).adaptation
    assert found == load_trial_config(written(tmp_path, "{}")).adaptation
    assert (found.weight, found.drift, found.drift_reduction) == (0.1, 1.0, "sum")


def test_an_unknown_form_is_told_with_its_neighbour_beside_other_problems(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_trial_config(written(tmp_path, "{form: relase, drift: -1}"))
    lines = str(caught.value).splitlines()
    assert any("adaptation.form" in line and "did you mean 'release'?" in line for line in lines)
    assert any("adaptation.drift" in line for line in lines)
