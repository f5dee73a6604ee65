"""A lane with a part of a GPU has that part of its memory."""

import pytest
import torch

from gam_ray.study.lanes import _bound_memory


@pytest.mark.parametrize(
    ("share", "kind", "bounds"),
    [(0.25, "cuda", [0.25]), (1.0, "cuda", []), (2.0, "cuda", []), (0.25, "cpu", [])],
)
def test_memory_is_bound_where_trials_share_a_gpu(
    share: float, kind: str, bounds: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[float] = []
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda part, _device: found.append(part)
    )
    _bound_memory(share, torch.device(kind))
    assert found == bounds
