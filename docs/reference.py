"""Write the pages of the site that the code itself says: settings and commands.

    python docs/reference.py

writes ``docs/study_file.md`` from the models of `gam_ray.config` and ``docs/commands.md`` from the
command line's own help. `tests/docs/test_site.py` fails where they are not as this would write
them.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typer.cli import get_docs_for_click

from gam_ray.cli.app import app
from gam_ray.config import SearchSpace, StudyConfig
from gam_ray.config.space import ChoiceParameter, RangeParameter, SubsetParameter
from gam_ray.config.trial import FORMS, StudentConfig

FOLDER = Path(__file__).parent
GENERATED = "<!-- Written by docs/reference.py; change the docstrings that it reads. -->\n\n"
TYPES = {str: "text", int: "integer", float: "number", bool: "true or false", dict: "mapping"}
BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
INTRODUCTION = """# The study file

A study is one YAML file. Only `name`, `trial.task.source`, `trial.task.target` and `space` must be
there; everything else has the default given here. A key that does not exist is refused, with its
nearest neighbour; values are not converted (`"3"` is not 3). `gam-ray run` names all problems of a
file at once, each with its line.

```yaml
{example}```

A file for [`gam-ray train`](commands.md) holds a `trial` section alone, without that word.
"""
SPACE_INTRODUCTION = """## space

What is searched: the path of a setting of `trial`, as in its table below, to one parameter.
`space` may be the name of a file that holds the mapping, beside the study
file or in a folder next to its own.

```yaml
adaptation.weight:    {log: [1.0e-3, 10]}
adaptation.layers:    {subset: [conv1, conv2, fc3, fc4], min: 1}
adaptation.adversary: {choice: [gan, lsgan]}
adaptation.moments.momentum: {float: [0.0, 0.5], when: {adaptation.moments.kind: running}}
```

Exactly one of these keys says how a setting is drawn; `when` is for all of them.
"""
FORM_INTRODUCTION = """
`form: release` is short for

```yaml
{release}```

and `form: paper`, the default, for the defaults of this table.
"""


def study_file() -> str:
    """The page of all settings of a study file."""
    example = (FOLDER.parent / "jobs" / "quickstart.yaml").read_text(encoding="utf-8")
    parts = [INTRODUCTION.format(example=example)]
    for path, model in sections(StudyConfig, ""):
        parts.append(section(path, model))
        if model is StudyConfig:
            parts.append(SPACE_INTRODUCTION + space_table())
        if path == "trial.adaptation":
            lines = (f"{key}: {json.dumps(value)}\n" for key, value in FORMS["release"].items())
            parts.append(FORM_INTRODUCTION.format(release="".join(lines)))
    return GENERATED + "\n".join(parts)


def sections(model: type[BaseModel], path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """A model and those within it, in the order of their keys."""
    yield path, model
    for name, field in model.model_fields.items():
        inner = inner_model(field)
        if inner:
            yield from sections(inner, f"{path}.{name}".lstrip("."))


def inner_model(field: FieldInfo) -> type[BaseModel] | None:
    """The model that a field holds; None for plain values and for what no file has."""
    for kind in [field.annotation, *get_args(field.annotation)]:
        if inspect.isclass(kind) and issubclass(kind, BaseModel) and kind is not StudentConfig:
            return None if issubclass(kind, SearchSpace) else kind
    return None


def section(path: str, model: type[BaseModel]) -> str:
    """Heading, meaning and table of one section."""
    title = path or "The file's own keys"
    return f"## {title}\n\n{prose(inspect.getdoc(model) or '')}\n\n{table(model, path)}"


def table(model: type[BaseModel], path: str) -> str:
    """One row a key."""
    rows = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        if StudentConfig in get_args(field.annotation):  # a study writes it, no user has to
            continue
        key = f"`{field.alias or name}`"
        inner = inner_model(field)
        if inner or field.annotation is SearchSpace:
            anchor = f"{path}{name}".replace(".", "")
            says = meaning(field) or prose((inspect.getdoc(inner) or "").partition("\n")[0])
            rows.append(f"| [{key}](#{anchor}) | section | {default(field)} | {says} |")
        else:
            rows.append(f"| {key} | {value(field)} | {default(field)} | {meaning(field)} |")
    return "\n".join(rows) + "\n"


def space_table() -> str:
    """The keys of a parameter of a search space."""
    rows = ["\n| key | value | meaning |", "|---|---|---|"]
    for model in (RangeParameter, ChoiceParameter, SubsetParameter):
        for name, field in model.model_fields.items():
            if field.description and (name != "when" or model is RangeParameter):
                key = f"`{field.alias or name}`"
                rows.append(f"| {key} | {value(field)} | {meaning(field)} |")
    return "\n".join(rows) + "\n"


def value(field: FieldInfo) -> str:
    """What a key takes, as people say it."""
    bounds = [
        f"{sign} {getattr(each, name):g}"
        for each in field.metadata
        for name, sign in BOUNDS.items()
        if getattr(each, name, None) is not None
    ]
    return ", ".join([kind_of(field.annotation), *bounds]).replace("|", "\\|")


def kind_of(annotation: Any) -> str:
    """A type as people say it."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        metadata = FieldInfo.from_annotation(annotation)
        return value(metadata).replace("\\|", "|")
    if origin is Literal:
        return " ".join(f"`{each}`" for each in inner)
    if origin in (Union, UnionType):
        kinds = [kind_of(each) for each in inner if each is not NoneType]
        return " or ".join(dict.fromkeys(kinds))
    if origin is tuple:
        kinds = [kind_of(each) for each in inner if each is not Ellipsis]
        return f"[{', '.join(kinds)}]" if Ellipsis not in inner else f"list: {kinds[0]}"
    return TYPES.get(origin or annotation, "text")


def default(field: FieldInfo) -> str:
    """The default as a file would write it; empty where there is none, or a section has its own."""
    found = field.get_default(call_default_factory=True)
    if found is PydanticUndefined:
        return "*required*"
    if isinstance(found, BaseModel):
        return ""
    written = json.dumps(found, default=list, ensure_ascii=False)
    return f"`{'null' if found is None else written}`"


def meaning(field: FieldInfo) -> str:
    """What a key means, in one line."""
    return prose(field.description or "").replace("\n", " ").replace("|", "\\|")


def prose(docstring: str) -> str:
    """A docstring as Markdown."""
    return re.sub(r"``([^`]*)``", r"`\1`", docstring)


def commands() -> str:
    """The page of all commands and options."""
    command = typer.main.get_command(app)
    written = get_docs_for_click(
        obj=command, ctx=typer.Context(command), name="gam-ray", title="All commands"
    )
    # The list of commands in front of them cuts off what they do.
    written = re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+\n", "", written)
    return GENERATED + "\n".join(line.rstrip() for line in written.splitlines()) + "\n"


PAGES = {"study_file.md": study_file, "commands.md": commands}

if __name__ == "__main__":
    for page, write in PAGES.items():
        (FOLDER / page).write_text(write(), encoding="utf-8")
