"""Study settings for tests that need no training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gam_ray.config import StudyConfig


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., StudyConfig]:
    """A builder of study settings whose storage is a new folder with a space in its name."""

    def make(**changes: Any) -> StudyConfig:
        settings = {
            "name": "a-study",
            "trial": {
                "task": {"source": "rendered-digits", "target": "handwritten-digits"},
                "steps": 40,
                "report_every": 10,
                "batch_size": 8,
                "pretraining": {"steps": 5, "batch_size": 8},
            },
            "space": {
                "adaptation.weight": {"log": [0.1, 10]},
                "adaptation.layers": {"subset": ["conv1", "conv2", "fc3", "fc4"], "min": 1},
                "adaptation.adversary": {"choice": ["gan", "lsgan"]},
            },
            "search": {"trials": 4},
            "objective": {"score": "ensv"},
            "storage": str(tmp_path / "my studies"),
        }
        return StudyConfig.from_mapping({**settings, **changes})

    return make
