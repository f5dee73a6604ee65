"""How a study is done again: its file, and what it ran with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from gam_ray.config import StudyConfig
from gam_ray.config.secrets import masked
from gam_ray.report.facts import Reproduction
from gam_ray.study.versions import all_versions, code_commit

# What YAML reads as text without quotes, in every version of it.
_PLAIN = re.compile(r"[A-Za-z_./][\w./ -]*")


def reproduction(config: StudyConfig, environment: Mapping[str, Any] | None) -> Reproduction:
    """The one command, the file it takes, and the versions.

    Args:
        config: The study's.
        environment: What `study.json` says that the study ran with; None of an older study.
    """
    told = environment or {"versions": all_versions(), "commit": code_commit()}
    file = f"{config.name}.yaml"
    return Reproduction(
        command=f"gam-ray run {file}",
        file=file,
        text=masked(study_yaml(config)),
        versions=told["versions"],
        commit=told["commit"],
        of_the_run=environment is not None,
        data=told.get("data", {}),
    )


def study_yaml(config: StudyConfig) -> str:
    """A study as the text of one study file, without what has its default.

    Its storage, and its Optuna study's, are left out: they belong to where it ran.
    """
    data = config.model_dump(mode="json", exclude_defaults=True, exclude={"storage"})
    data.get("search", {}).pop("storage", None)
    return yaml.dump(
        data,
        Dumper=_Dumper,
        default_flow_style=None,
        sort_keys=False,
        allow_unicode=True,
        width=100,
    )


class _Dumper(yaml.SafeDumper):
    """Quotes all text that some YAML reader takes for something else, such as ``1e3``."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if _PLAIN.fullmatch(text) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
