"""Work that does not wait for other work, on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch


@lru_cache
def stream(device: torch.device, name: str) -> torch.cuda.Stream:  # noqa: ARG001 - the key
    """The same one for all trials of this process: libraries keep memory for each that they see."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class Streams:
    """Streams beside the current one of a GPU; on a CPU everything is done in turn.

    A small network's kernels leave most of a GPU idle, and independent ones then run at a time.
    Tensors may go from one stream to another as long as `meet` lies between: each stream begins
    where the current one is. They are kept until all have met: what is freed may be written anew.

    Args:
        device: Of the work.
        name: Of the work; streams of one name and number are one.
        count: How many there are; 0 for work in turn.
    """

    def __init__(self, device: torch.device, name: str, count: int) -> None:
        self._device = device
        self._streams: list[torch.cuda.Stream] = []
        if device.type == "cuda":
            self._streams = [stream(device, f"{name} {number}") for number in range(count)]
        self._busy: set[int] = set()

    @contextmanager
    def beside(self, number: int) -> Iterator[None]:
        """Work on stream `number`, in [0, count), from where the current one is."""
        if not self._streams:
            yield
            return
        own = self._streams[number]
        own.wait_stream(torch.cuda.current_stream(self._device))
        self._busy.add(number)
        with torch.cuda.stream(own):
            yield

    def meet(self, *numbers: int) -> None:
        """Let the current stream go on when what was done on these, or on all, is done as well."""
        if not self._streams:
            return
        for number in numbers or sorted(self._busy):
            torch.cuda.current_stream(self._device).wait_stream(self._streams[number])
            self._busy.discard(number)
