"""The search space: which settings of a trial are searched, and where.

A space is a mapping from the dotted path of a setting to one parameter::

    adaptation.weight:    {log: [1.0e-3, 10]}
    adaptation.layers:    {subset: [conv1, conv2, fc3, fc4], min: 1}
    adaptation.adversary: {choice: [gan, lsgan]}
    adaptation.moments.momentum: {float: [0.0, 0.5], when: {adaptation.moments.kind: running}}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    RootModel,
    Tag,
    ValidationError,
    model_validator,
)

from gam_ray.config.base import ConfigModel
from gam_ray.config.trial import TrialConfig


def _plain(value: Any) -> Any:
    """Refuse what is no scalar with one message, where a union has one for each member."""
    if not isinstance(value, bool | int | float | str):
        raise ValueError(f"must be text, a number, true or false, but got {value!r}")  # noqa: TRY004
    return value


Scalar = Annotated[bool | int | float | str, BeforeValidator(_plain)]
Condition = dict[str, Scalar]

# What a network can go on with after it has trained with another value.
_EXPLORED = ("adaptation.", "optimizer.")


class RangeParameter(ConfigModel):
    """A number between two bounds, both included; exactly one of the three kinds is given."""

    log: tuple[float, float] | None = None
    """Bounds of a float drawn on a logarithmic scale; both positive."""
    float_: Annotated[tuple[float, float] | None, Field(alias="float")] = None
    """Bounds of a float."""
    int_: Annotated[tuple[int, int] | None, Field(alias="int")] = None
    """Bounds of an integer."""
    when: Condition = Field(default_factory=dict)
    """Searched only where these other parameters have these values."""

    @property
    def kind(self) -> Literal["log", "float", "int"]:
        """Which of the three bounds is given."""
        return "log" if self.log else "float" if self.float_ else "int"

    @property
    def bounds(self) -> tuple[float, float]:
        """(low, high)."""
        bounds = self.log or self.float_ or self.int_
        assert bounds is not None
        return bounds

    def examples(self) -> list[Any]:
        """Values at the edges of the parameter, which its setting must accept."""
        return list(self.bounds)

    def refusal(self, value: Any) -> str | None:
        """Why `value` is not in the parameter, or None if it is."""
        low, high = self.bounds
        whole = self.kind == "int"
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and low <= value <= high and (not whole or isinstance(value, int)):
            return None
        what = "an integer" if whole else "a number"
        return f"must be {what} from {low:g} to {high:g}, but got {value!r}"

    @model_validator(mode="after")
    def _one_kind_and_ordered(self) -> Self:
        given = [name for name in ("log", "float_", "int_") if getattr(self, name) is not None]
        if len(given) != 1:
            names = ", ".join(name.rstrip("_") for name in given)
            raise ValueError(f"give exactly one of log, float and int, but got {names or 'none'}")
        low, high = self.bounds
        if not low < high:
            raise ValueError(f"low < high must hold, but got low={low}, high={high}")
        if self.log and low <= 0:
            raise ValueError(f"a log range must start above zero, but got low={low}")
        return self


class ChoiceParameter(ConfigModel):
    """One of a list of values."""

    choice: Annotated[tuple[Scalar, ...], Field(min_length=2)]
    """The values, at least two."""
    when: Condition = Field(default_factory=dict)

    def examples(self) -> list[Any]:
        """Values that the parameter's setting must accept."""
        return list(self.choice)

    def refusal(self, value: Any) -> str | None:
        """Why `value` is not in the parameter, or None if it is."""
        # True equals 1, but is another choice.
        if any(type(value) is type(each) and value == each for each in self.choice):
            return None
        choices = ", ".join(repr(each) for each in self.choice)
        return f"must be one of {choices}, but got {value!r}"


class SubsetParameter(ConfigModel):
    """A subset of names; searched as one yes/no for each, so that importance names them."""

    subset: Annotated[tuple[str, ...], Field(min_length=2)]
    """The names, at least two."""
    min: Annotated[int, Field(ge=0)] = 1
    """Smallest size of a subset."""
    when: Condition = Field(default_factory=dict)

    def examples(self) -> list[Any]:
        """Values that the parameter's setting must accept."""
        return [list(self.subset)]

    def refusal(self, value: Any) -> str | None:
        """Why `value` is not in the parameter, or None if it is."""
        names = value if isinstance(value, list | tuple) else ()
        if (
            isinstance(value, list | tuple)
            and all(name in self.subset for name in names)
            and self.min <= len(names) == len(set(names))
        ):
            return None
        return (
            f"must be a list of at least {self.min} of {', '.join(self.subset)}, none twice, "
            f"but got {value!r}"
        )

    @model_validator(mode="after")
    def _distinct_and_enough(self) -> Self:
        if len(set(self.subset)) != len(self.subset):
            raise ValueError(f"names must be distinct, but got {', '.join(self.subset)}")
        if self.min > len(self.subset):
            raise ValueError(
                f"min must be at most the number of names, but got min={self.min} "
                f"of {len(self.subset)}"
            )
        return self


def _parameter_kind(value: Any) -> str:
    keys = value if isinstance(value, dict) else getattr(value, "model_fields_set", ())
    return next((kind for kind in ("choice", "subset") if kind in keys), "range")


Parameter = Annotated[
    Annotated[RangeParameter, Tag("range")]
    | Annotated[ChoiceParameter, Tag("choice")]
    | Annotated[SubsetParameter, Tag("subset")],
    Discriminator(_parameter_kind),
]


class SearchSpace(RootModel[dict[str, Parameter]]):
    """Dotted path of a trial's setting → how it is searched."""

    def __iter__(self) -> Iterator[str]:  # type: ignore[override]
        return iter(self.root)

    def items(self) -> Iterator[tuple[str, Parameter]]:
        """(path, parameter) pairs in the order of the file."""
        yield from self.root.items()

    def __len__(self) -> int:
        return len(self.root)


def explorable(space: SearchSpace) -> dict[str, RangeParameter]:
    """The parameters that population-based training may change between two generations."""
    return {
        path: parameter
        for path, parameter in space.items()
        if isinstance(parameter, RangeParameter) and path.startswith(_EXPLORED)
    }


def apply_settings(base: TrialConfig, settings: Mapping[str, Any]) -> TrialConfig:
    """`base` with the settings at dotted paths replaced.

    Args:
        base: The trial that everything not named comes from.
        settings: Dotted path → value, such as ``{"adaptation.weight": 0.3}``.

    Raises:
        ValueError: If a path names no setting of a trial, or a value is refused by it.
    """
    mapping = base.to_mapping()
    for path, value in settings.items():
        *parents, name = path.split(".")
        node: Any = mapping
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if not isinstance(node, dict) or name not in node:
            raise ValueError(f"{path!r} is no setting of a trial")
        node[name] = list(value) if isinstance(value, tuple) else value
    return TrialConfig.from_mapping(mapping)


def value_at(mapping: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path of nested mappings; None where there is none."""
    node: Any = mapping
    for part in path.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def space_problems(space: SearchSpace, base: TrialConfig) -> dict[str, str]:
    """What is wrong with `space` as a search around `base`: parameter path → message.

    A parameter must name a setting of a trial, the setting must accept the parameter's
    edges, and `when` must name settings that exist and values that they accept.
    """
    problems: dict[str, str] = {}
    known = setting_paths(base)
    for path, parameter in space.items():
        if path not in known:
            problems[path] = unknown_name("setting", path, known)
            continue
        for value in parameter.examples():
            if message := _refusal(base, path, value):
                problems[path] = f"{value!r} {message}"
        for condition, value in parameter.when.items():
            if condition not in known:
                problems[path] = f"when: {unknown_name('setting', condition, known)}"
            elif message := _refusal(base, condition, value):
                problems[path] = f"when: {condition}={value!r} {message}"
    return problems


def _refusal(base: TrialConfig, path: str, value: Any) -> str | None:
    try:
        apply_settings(base, {path: value})
    except ValidationError as error:
        return f"is refused: {error.errors()[0]['msg']}"
    return None


def setting_paths(base: TrialConfig) -> list[str]:
    """Dotted paths of all settings of a trial."""

    def walk(node: Any, prefix: str) -> Iterator[str]:
        for name, value in node.items():
            path = f"{prefix}{name}"
            if isinstance(value, dict):
                yield from walk(value, f"{path}.")
            else:
                yield path

    return list(walk(base.to_mapping(), ""))


def unknown_name(what: str, name: str, known: list[str] | tuple[str, ...]) -> str:
    """An error text for a name that is not among `known`, with the nearest one if there is."""
    nearest = get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else f"; known: {', '.join(known)}"
    return f"unknown {what} {name!r}{hint}"
