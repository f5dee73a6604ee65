"""How two settings of a study differ, and which may when it is taken up again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from gam_ray.config.study import StudyConfig

# What may differ when a study is taken up again: it says how far the study goes, where its folder
# has been moved and where Optuna keeps its copy, and nothing of any trial.
MAY_CHANGE = ("search.trials", "search.storage", "budget", "storage")

_MISSING = object()


def filled_up(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """A study's settings, with the defaults of what came after they were written.

    Those that are no longer valid are returned as they are.
    """
    try:
        return StudyConfig.from_mapping(settings).to_mapping()
    except ValueError:
        return settings


def settings_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The settings that differ, as ``dotted.path: old → new``, sorted by path.

    Args:
        old: Plain JSON-like data, such as a configuration's `to_mapping`.
        new: The same.

    Returns:
        One line a setting; where only one of the two has it, the other side is ``(none)``.
    """
    return [
        f"{path}: {_shown(before)} → {_shown(after)}" for path, before, after in _changes(old, new)
    ]


def refused_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The lines of `settings_difference` that a study may not be taken up again with.

    `MAY_CHANGE` may differ, and ``search.trials`` only grow.
    """
    lines = []
    for path, before, after in _changes(old, new):
        line = f"{path}: {_shown(before)} → {_shown(after)}"
        if path == "search.trials" and not _grows(before, after):
            lines.append(f"{line} (may only grow)")
        elif not any(path == may or path.startswith(f"{may}.") for may in MAY_CHANGE):
            lines.append(line)
    return lines


def _grows(before: Any, after: Any) -> bool:
    return isinstance(before, int) and isinstance(after, int) and before < after


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    before, after = dict(_leaves(old, "")), dict(_leaves(new, ""))
    pairs = [
        (path, before.get(path, _MISSING), after.get(path, _MISSING))
        for path in sorted({*before, *after})
    ]
    return [pair for pair in pairs if _shown(pair[1]) != _shown(pair[2])]


def _leaves(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{path}.")
        else:
            yield path, value


def _shown(value: Any) -> str:
    return "(none)" if value is _MISSING else json.dumps(value, ensure_ascii=False)
