"""Steps on a GPU without the processor: captured once in a CUDA graph, then replayed.

A step of a small network is some hundreds of kernels of a few microseconds each, which a processor
launches more slowly than the GPU runs them. A graph is launched at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from gam_ray.adaptation import world_size

logger = logging.getLogger(__name__)

# Steps before the capture: libraries choose their kernels, optimizers make their state.
WARM_UP = 3
Inputs = tuple[Tensor, ...]
Function = Callable[..., dict[str, Tensor]]


class CapturedSteps:
    """Calls a function of tensors; on a GPU with one worker, from its fourth call on, as a graph.

    Every call does the same work on the same tensors as the function itself would, as long as that
    depends on nothing but its inputs, on what tensors hold that are changed in place, and on
    torch's generators. What waits for the GPU (``.item()``) cannot be captured: then the function
    goes on being called, and the log says why.

    Args:
        function: Takes tuples of tensors on the device, returns scalars by name; the shapes are the
            same at every call.
        device: Of the work.
    """

    def __init__(self, function: Function, device: torch.device) -> None:
        self._function = function
        self._device = device
        self._calls = 0
        self._captures = device.type == "cuda" and world_size() == 1
        self._stream: torch.cuda.Stream | None = None
        if self._captures:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: tuple[Inputs, ...] = ()
        self._outputs: dict[str, Tensor] = {}

    def __call__(self, *inputs: Inputs) -> dict[str, Tensor]:
        """One step.

        Args:
            inputs: On the device or on the CPU, from where they are copied without waiting.

        Returns:
            What the function returns; at the next call these tensors may hold what that returns.
        """
        if not self._captures:
            return self._function(*_moved(inputs, self._device))
        if self._graph is None:
            if self._calls < WARM_UP:
                self._calls += 1
                return self._call_aside(_moved(inputs, self._device))
            if not self._capture(inputs):
                return self._function(*_moved(inputs, self._device))
        assert self._graph is not None
        for fixed, given in zip(self._inputs, inputs, strict=True):
            for destination, source in zip(fixed, given, strict=True):
                destination.copy_(source, non_blocking=True)
        self._graph.replay()
        return self._outputs

    def _call_aside(self, inputs: tuple[Inputs, ...]) -> dict[str, Tensor]:
        """On the stream of the capture, as CUDA wants it of what is captured later."""
        assert self._stream is not None
        here = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            seen = self._function(*inputs)
        here.wait_stream(self._stream)
        return seen

    def _capture(self, inputs: tuple[Inputs, ...]) -> bool:
        """Record the work of a call without doing it; whether that could be done."""
        # Copies, whose place in memory stays: every replay reads there.
        moved = _moved(inputs, self._device)
        self._inputs = tuple(tuple(each.clone() for each in part) for part in moved)
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(self._device)
        try:
            # Other threads, such as the one that reads the memory's peak, may use CUDA meanwhile.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._outputs = self._function(*self._inputs)
        except RuntimeError as error:
            self._captures, self._inputs, self._outputs = False, (), {}
            torch.cuda.synchronize(self._device)
            logger.warning(
                "a step cannot be captured in a CUDA graph, so each is launched anew, which is "
                "slower: %s",
                str(error).splitlines()[0],
            )
            return False
        self._graph = graph
        return True


def _moved(inputs: tuple[Inputs, ...], device: torch.device) -> tuple[Inputs, ...]:
    return tuple(tuple(each.to(device, non_blocking=True) for each in part) for part in inputs)
