"""Steps on a GPU without the processor: captured once in a CUDA graph, then replayed.

A step of a small network is some hundreds of kernels of a few microseconds each, which a processor
launches more slowly than the GPU runs them. A graph is launched at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from gam_ray.adaptation import stream, world_size

logger = logging.getLogger(__name__)

# Steps before the capture: libraries choose their kernels, optimizers make their state.
WARM_UP = 3
# Steps whose inputs are sent to the GPU together, and the most that these may take there.
BLOCK_STEPS, BLOCK_BYTES = 64, 16 * 2**20
Inputs = tuple[Tensor, ...]


class CapturedSteps:
    """Does a function step by step; on a GPU with one worker, from the fourth on, as a graph.

    A replay does the same work as the function would, as long as that depends on nothing but its
    inputs, on what tensors hold that are changed in place, and on torch's generators. What waits
    for the GPU (``.item()``) cannot be captured: then the function goes on being called, and the
    log says why.

    Args:
        function: Does a step with its inputs, on the device; their shapes are always the same.
        inputs: Gives those of step 0, 1, …, on the CPU, whenever it is asked.
        steps: How many steps there are.
        device: Of the work.
    """

    def __init__(
        self,
        function: Callable[..., None],
        inputs: Callable[[int], Inputs],
        *,
        steps: int,
        device: torch.device,
    ) -> None:
        self._function = function
        self._inputs = inputs
        self._steps = steps
        self._device = device
        self._warm_up = WARM_UP
        self._captures = device.type == "cuda" and world_size() == 1
        self._stream: torch.cuda.Stream | None = None
        if self._captures:
            self._stream = stream(device, "capture")
        self._graph: torch.cuda.CUDAGraph | None = None
        self._feed: _Feed | None = None

    def __call__(self, step: int) -> None:
        """Do step 0, 1, …; the GPU may do it later."""
        if self._captures and not self._warm_up and self._graph is None:
            self._capture(step)
        if self._graph is not None and self._feed is not None:
            self._feed.go_to(step)
            self._graph.replay()
        elif self._captures:
            self._warm_up -= 1
            self._call_aside(step)
        else:
            self._call(step)

    def _call(self, step: int) -> None:
        self._function(*(each.to(self._device, non_blocking=True) for each in self._inputs(step)))

    def _call_aside(self, step: int) -> None:
        """On the stream of the capture, as CUDA wants it of what is captured later."""
        assert self._stream is not None
        here = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            self._call(step)
        here.wait_stream(self._stream)

    def _capture(self, step: int) -> None:
        """Record the work of a step without doing it; if that cannot be, say so once."""
        feed = _Feed(self._inputs, step, self._steps, self._device)
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(self._device)
        try:
            # Other threads, such as the one that reads the memory's peak, may use CUDA meanwhile.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._function(*feed.next())
        except RuntimeError as error:
            self._captures = False
            torch.cuda.synchronize(self._device)
            logger.warning(
                "a step cannot be captured in a CUDA graph, so each is launched anew, which is "
                "slower: %s",
                str(error).splitlines()[0],
            )
        else:
            self._graph, self._feed = graph, feed


class _Feed:
    """The inputs of the next steps, sent to the GPU block by block, where a graph takes them.

    Args:
        inputs: Of a step, on the CPU.
        step: The first one wanted.
        steps: How many there are in all.
        device: Where they are wanted.
    """

    def __init__(
        self, inputs: Callable[[int], Inputs], step: int, steps: int, device: torch.device
    ) -> None:
        self._inputs = inputs
        self._steps = steps
        self._held = range(0)
        self._expected = 0
        example = inputs(step)
        size = max(1, sum(each.nbytes for each in example))
        self._count = max(1, min(BLOCK_STEPS, BLOCK_BYTES // size))
        self._blocks = [
            torch.empty((self._count, *each.shape), dtype=each.dtype, device=device)
            for each in example
        ]
        self._at = torch.zeros(1, dtype=torch.int64, device=device)

    def next(self) -> Inputs:
        """Those of the step it is at, which it leaves behind; a part of what is captured."""
        taken = tuple(block.index_select(0, self._at).squeeze(0) for block in self._blocks)
        self._at += 1
        return taken

    def go_to(self, step: int) -> None:
        """Have the inputs of a step, before it is replayed."""
        if step not in self._held or step != self._expected:
            self._held = range(step, min(step + self._count, self._steps))
            columns = zip(*(self._inputs(each) for each in self._held), strict=True)
            for block, column in zip(self._blocks, columns, strict=True):
                # From pinned memory the copy waits in the queue of the GPU, and nobody for it.
                block[: len(column)].copy_(torch.stack(column).pin_memory(), non_blocking=True)
            self._at.zero_()
        self._expected = step + 1
