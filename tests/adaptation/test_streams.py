"""Which stream waits for which, without a GPU; tests/training/test_gpu.py has what comes of it."""

from contextlib import contextmanager

import pytest
import torch

from gam_ray.adaptation import streams
from gam_ray.adaptation.streams import Streams


class _Stream:
    """Notes whom it waits for."""

    def __init__(self, name: str, told: list[str]) -> None:
        self.name, self._told = name, told

    def wait_stream(self, other: "_Stream") -> None:
        self._told.append(f"{self.name} waits for {other.name}")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What streams are told, and what is done on them."""
    told: list[str] = []
    current = [_Stream("main", told)]

    @contextmanager
    def on(own: _Stream):  # noqa: ANN202
        current.append(own)
        told.append(f"to {own.name}")
        yield
        current.pop()

    monkeypatch.setattr(streams, "stream", lambda _device, name: _Stream(name, told))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: current[-1])
    monkeypatch.setattr(torch.cuda, "stream", on)
    return told


def test_each_begins_where_the_current_one_is_which_waits_for_those_that_were_used(
    told: list[str],
) -> None:
    found = Streams(torch.device("cuda"), "side", 3)
    for number in (0, 2):
        with found.beside(number):
            pass
    found.meet()
    found.meet()
    assert told == [
        "side 0 waits for main",
        "to side 0",
        "side 2 waits for main",
        "to side 2",
        "main waits for side 0",
        "main waits for side 2",
    ]


def test_one_waits_for_another_and_the_current_one_for_what_nobody_has_met(
    told: list[str],
) -> None:
    found = Streams(torch.device("cuda"), "side", 3)
    for number in (0, 1):
        with found.beside(number):
            pass
    with found.beside(2):
        found.meet(0)
    found.meet()
    assert told[4:] == [
        "side 2 waits for main",
        "to side 2",
        "side 2 waits for side 0",
        "main waits for side 1",
        "main waits for side 2",
    ]


def test_on_a_cpu_all_is_done_in_turn() -> None:
    found = Streams(torch.device("cpu"), "side", 3)
    with found.beside(7):
        pass
    found.meet()
