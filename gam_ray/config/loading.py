"""YAML files to configuration models, with every problem of a file reported at once."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, RootModel, ValidationError

from gam_ray.config.searching import search_problems
from gam_ray.config.space import (
    ChoiceParameter,
    RangeParameter,
    SearchSpace,
    SubsetParameter,
    space_problems,
    unknown_name,
)
from gam_ray.config.study import SearchConfig, StudyConfig
from gam_ray.config.trial import FORMS, TaskConfig, TrialConfig

Path_ = tuple[str | int, ...]
Model = TypeVar("Model", bound=BaseModel)
PARAMETER_MODELS = {
    "range": RangeParameter,
    "choice": ChoiceParameter,
    "subset": SubsetParameter,
}
# Stands for a study's trial where that is not valid itself, so that its space is still checked.
_ANY_TRIAL = TrialConfig(task=TaskConfig(source="source", target="target"))


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in a file."""

    file: Path
    line: int | None
    path: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else str(self.file)
        return f"{place}: {self.path + ': ' if self.path else ''}{self.message}"


class ConfigError(ValueError):
    """A file that is not valid; `problems` has everything that is wrong with it."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


class _CoreLoader(yaml.SafeLoader):
    """YAML 1.2's core schema: ``1e-3`` is a number, and ``no`` and dates are plain text."""


_CoreLoader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _CoreLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first
    )


def _decimal(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    """An integer, also where it starts with a zero: to YAML 1.1, 0100 would be 64."""
    return int(loader.construct_scalar(node))


_CoreLoader.add_constructor("tag:yaml.org,2002:int", _decimal)
# Far above what a study needs; PyYAML takes seconds for more.
MOST_BYTES = 256 * 1024
# Of a file whose aliases are written out: a few lines of them can stand for billions.
MOST_VALUES = 50_000
# What the loader's constructors raise where an explicit tag does not go with its value.
_CONSTRUCTOR_ERRORS = (ValueError, LookupError, AttributeError, TypeError)


@dataclass(frozen=True)
class _Document:
    """A parsed file: its data and the line of every path in it."""

    file: Path
    data: dict[str, Any]
    lines: Mapping[Path_, int]

    def problem(self, path: Path_, message: str) -> Problem:
        """A problem at `path`, with the line of the nearest part of it that the file has."""
        line = next(
            (self.lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in self.lines),
            None,
        )
        return Problem(self.file, line, ".".join(str(part) for part in path), message)


def load_study_config(file: Path | str) -> StudyConfig:
    """Read a study file; ``space`` may be a mapping or the path of a space file beside it.

    Raises:
        ConfigError: Naming all problems of the study file and of its space file.
    """
    document = _read(Path(file))
    problems = _expand_form(document, ("trial", "adaptation"))
    space_document = _space_document(document, problems)
    if space_document is not document:
        document.data["space"] = {}
    study = _validate(StudyConfig, document, problems)
    space = _validate_space(document, space_document, problems)
    if problems or study is None or space is None:
        raise ConfigError(problems)
    return study.model_copy(update={"space": space})


def load_trial_config(file: Path | str) -> TrialConfig:
    """Read a trial file: the settings of one trial at its top level.

    Raises:
        ConfigError: Naming all problems of the file.
    """
    document = _read(Path(file))
    problems = _expand_form(document, ("adaptation",))
    trial = _validate(TrialConfig, document, problems)
    if trial is None or problems:
        raise ConfigError(problems)
    return trial


def _expand_form(document: _Document, path: tuple[str, ...]) -> list[Problem]:
    """Replace ``form`` by the settings it stands for; those that are written out win."""
    node: Any = document.data
    for name in path:
        node = node.get(name) if isinstance(node, dict) else None
    if not isinstance(node, dict) or "form" not in node:
        return []
    form = node.pop("form")
    if not isinstance(form, str) or form not in FORMS:
        message = unknown_name("form", str(form), tuple(FORMS))
        return [document.problem((*path, "form"), message)]
    for name, value in FORMS[form].items():
        node.setdefault(name, value)
    return []


def _read(file: Path) -> _Document:
    try:
        text = _content(file)
        node = yaml.compose(text, Loader=_CoreLoader)
        _check_size(file, node)
        data = yaml.load(text, Loader=_CoreLoader)  # noqa: S506 - a subclass of SafeLoader
        lines: dict[Path_, int] = {}
        problems: list[Problem] = []
        _walk(file, node, (), lines, problems)
    except ConfigError:
        raise
    except OSError as error:
        raise ConfigError([Problem(file, None, "", error.strerror or str(error))]) from error
    except RecursionError as error:
        message = "nested too deeply, or an alias stands within what it names"
        raise ConfigError([Problem(file, None, "", message)]) from error
    except (yaml.YAMLError, *_CONSTRUCTOR_ERRORS) as error:
        raise ConfigError([_syntax_problem(file, error)]) from error
    if not isinstance(data, dict):
        message = f"the file must hold a mapping, but holds {type(data).__name__}"
        raise ConfigError([Problem(file, 1, "", message)])
    problems += _not_plain(file, data, (), lines)
    if problems:
        raise ConfigError(problems)
    return _Document(file, data, lines)


def _content(file: Path) -> str:
    """The text of a file; a pipe or a device could have no end."""
    size = file.stat().st_size
    if not file.is_file():
        raise ConfigError([Problem(file, None, "", "must be a file")])
    if size > MOST_BYTES:
        message = f"must have at most {MOST_BYTES:,} bytes, but has {size:,}"
        raise ConfigError([Problem(file, None, "", message)])
    return file.read_bytes().decode("utf-8")


def _check_size(file: Path, node: yaml.Node | None) -> None:
    if node is not None and _values_in(node, {}) > MOST_VALUES:
        message = f"must have at most {MOST_VALUES:,} values with its aliases written out"
        raise ConfigError([Problem(file, None, "", message)])


def _values_in(node: yaml.Node, known: dict[int, int | None]) -> int:
    """Values of a node with its aliases written out, each node counted once.

    Raises:
        RecursionError: If an alias stands within what it names.
    """
    if id(node) in known:
        count = known[id(node)]
        if count is None:
            raise RecursionError
        return count
    known[id(node)] = None
    children: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        children = node.value
    elif isinstance(node, yaml.MappingNode):
        children = [each for pair in node.value for each in pair]
    count = 1 + sum(_values_in(child, known) for child in children)
    known[id(node)] = count
    return count


def _syntax_problem(file: Path, error: Exception) -> Problem:
    mark = getattr(error, "problem_mark", None)
    message = getattr(error, "problem", None) or str(error).splitlines()[0]
    return Problem(file, mark.line + 1 if mark else None, "", f"not valid YAML: {message}")


def _walk(
    file: Path,
    node: yaml.Node | None,
    path: Path_,
    lines: dict[Path_, int],
    problems: list[Problem],
) -> None:
    """Collect the line of every path, and keys that stand twice (YAML would keep the last)."""
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _walk(file, item, (*path, index), lines, problems)
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        here: Path_ = (*path, str(key.value))
        line = key.start_mark.line + 1
        if here in lines:
            text = f"stands twice, first on line {lines[here]}"
            problems.append(Problem(file, line, ".".join(map(str, here)), text))
            continue
        lines[here] = line
        _walk(file, value, here, lines, problems)


def _not_plain(file: Path, data: Any, path: Path_, lines: Mapping[Path_, int]) -> list[Problem]:
    """Problems of values that are not JSON-like: keys that are no text, non-finite numbers."""
    where = ".".join(map(str, path))
    if isinstance(data, dict):
        message = "keys must be text, but got {!r}"
        found = [
            Problem(file, lines.get((*path, str(key))), where, message.format(key))
            for key in data
            if not isinstance(key, str)
        ]
        for key, value in data.items():
            found += _not_plain(file, value, (*path, str(key)), lines)
        return found
    if isinstance(data, list):
        return [
            problem
            for index, value in enumerate(data)
            for problem in _not_plain(file, value, (*path, index), lines)
        ]
    if data is None or isinstance(data, bool | int | str):
        return []
    if isinstance(data, float) and math.isfinite(data):
        return []
    line = lines.get(path)
    return [Problem(file, line, where, f"must be text, a finite number or a list, got {data!r}")]


def _space_document(document: _Document, problems: list[Problem]) -> _Document:
    """The document that holds the space: the study file itself, or the file it names."""
    space = document.data.get("space")
    if not isinstance(space, str):
        return document
    fault = _path_fault(document.file.parent, space)
    if fault:
        problems.append(document.problem(("space",), fault))
        return _Document(document.file, {}, {})
    try:
        return _read(document.file.parent / space)
    except ConfigError as error:
        problems += error.problems
        return _Document(document.file.parent / space, {}, {})


def _path_fault(folder: Path, path: str) -> str | None:
    """Why a space file is not read: a study file must not open whatever its reader may."""
    rule = "must be a .yaml file beside the study file or in a folder next to the study file's"
    try:
        inside = (folder / path).resolve().is_relative_to(folder.resolve().parent)
    except (OSError, ValueError, RuntimeError) as error:
        return f"{rule}, but {path!r} is no path: {error}"
    if Path(path).is_absolute() or not inside or Path(path).suffix not in {".yaml", ".yml"}:
        return f"{rule}, by a relative path, but got {path!r}"
    return None


def _validate_space(
    study: _Document, document: _Document, problems: list[Problem]
) -> SearchSpace | None:
    inline = document is study
    prefix: Path_ = ("space",) if inline else ()
    data = document.data.get("space") if inline else document.data
    space = None if inline else _validate(SearchSpace, document, problems)
    parameters = _valid_parameters(data)
    trial = _part(TrialConfig, study.data.get("trial")) or _ANY_TRIAL
    found = space_problems(parameters, trial)
    problems += [document.problem((*prefix, name), message) for name, message in found.items()]
    search = _part(SearchConfig, study.data.get("search", {}))
    if search and not found and isinstance(data, dict) and len(parameters) == len(data):
        problems += [
            study.problem(("search", *place), message)
            for place, message in search_problems(parameters, trial, search).items()
        ]
    return parameters if inline else space


def _valid_parameters(data: Any) -> SearchSpace:
    """The parameters that are valid in themselves, so that the others do not hide them."""
    entries = data.items() if isinstance(data, dict) else ()
    parts = [_part(SearchSpace, {name: value}) for name, value in entries]
    return SearchSpace({name: p for part in parts if part for name, p in part.items()})


def _part(model: type[Model], data: Any) -> Model | None:
    """`data` as `model`, or None if it is not valid (its problems are told elsewhere)."""
    try:
        return model.model_validate_json(json.dumps(data))
    except ValidationError:
        return None


def _validate(model: type[Model], document: _Document, problems: list[Problem]) -> Model | None:
    try:
        return model.model_validate_json(json.dumps(document.data))
    except ValidationError as error:
        for item in error.errors(include_url=False):
            message = _message(model, item["loc"], item)
            problems.append(document.problem(_path(model, item["loc"]), message))
        return None


def _path(model: type[BaseModel], location: Path_) -> Path_:
    """`location` as the file has it: pydantic puts a parameter's kind behind its name."""
    inline = model is StudyConfig and location[:1] == ("space",)
    kind = 2 if inline else 1 if model is SearchSpace else len(location)
    return (*location[:kind], *location[kind + 1 :])


def _message(model: type[BaseModel], location: Path_, item: Any) -> str:
    kind, value = item["type"], item.get("input")
    if kind == "extra_forbidden":
        return unknown_name("key", str(location[-1]), _keys(model, location[:-1]))
    if kind == "missing":
        return "is required"
    text: str = item["msg"].removeprefix("Value error, ")
    if kind == "value_error" or isinstance(value, dict | list):
        return text
    return f"{text[0].lower()}{text[1:]}, but got {value!r}"


def _keys(model: type[BaseModel], location: Path_) -> list[str]:
    """Keys that `model` takes at `location`."""
    current: Any = model
    for part in location:
        if part in PARAMETER_MODELS:
            current = PARAMETER_MODELS[str(part)]
        elif isinstance(current, type) and issubclass(current, RootModel):
            continue
        elif str(part) in current.model_fields:
            current = _model_of(current.model_fields[str(part)].annotation)
        # Else a name of the user's own, such as a metric's: its value is of that model already.
    return [field.alias or name for name, field in current.model_fields.items()]


def _model_of(annotation: Any) -> type[BaseModel]:
    """The model class in an annotation such as ``X`` or ``X | None``."""
    candidates = [annotation, *get_args(annotation)]
    return next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
