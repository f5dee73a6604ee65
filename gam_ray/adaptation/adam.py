"""Adam as trials have it: torch's own, fast on a GPU for small networks, and replayable there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from gam_ray.adaptation.pieces import lie_alike, piece_size, pieces_of


def _plain(method: Any) -> Any:
    """What torch keeps from torch.compile's sight, without that: nothing here is compiled.

    What stands around it imports torch._dynamo: two seconds of a core in every worker.
    """
    return getattr(method, "__wrapped__", method)


class Adam(torch.optim.Adam):
    """torch's fused Adam, whose tensors are handed over in pieces where these are small.

    Parameters, state and checkpoints are torch's; so are the numbers, to the last bit. On a GPU a
    step can be captured in a CUDA graph, wherever its state came from.

    Args:
        parameters: What it steps, on one device.
        lr: Learning rate.
        betas: Adam's decay of both moments.
        weight_decay: L2 weight.
    """

    add_param_group = _plain(torch.optim.Adam.add_param_group)
    state_dict = _plain(torch.optim.Adam.state_dict)
    zero_grad = _plain(torch.optim.Adam.zero_grad)

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
    ) -> None:
        given = list(parameters)
        self._is_on_gpu = bool(given) and given[0].is_cuda
        self._counters: dict[nn.Parameter, Sequence[Tensor]] = {}
        super().__init__(
            given,
            lr=lr,
            betas=betas,
            weight_decay=weight_decay,
            fused=True,
            capturable=self._is_on_gpu,
        )

    def set_learning_rate(self, rate: float) -> None:
        """From the next step on, also of one that was captured."""
        for group in self.param_groups:
            if not self._is_on_gpu:
                group["lr"] = rate
            elif isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:  # a number would be a part of what is captured
                group["lr"] = torch.tensor(rate, device=group["params"][0].device)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from another's state, which may have been on another kind of device."""
        _plain(torch.optim.Adam.load_state_dict)(self, state_dict)
        self._counters.clear()
        for group in self.param_groups:
            group["capturable"] = self._is_on_gpu
            for parameter in group["params"]:
                if state := self.state.get(parameter):
                    state["step"] = state["step"].to(parameter.device)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        assert closure is None, "there is none to evaluate"
        (group,) = self.param_groups
        learners = [each for each in group["params"] if each.grad is not None]
        size = piece_size(learners)
        columns: tuple[list[Tensor], ...] = ([], [], [], [])
        counters: list[Tensor] = []
        for learner in learners:
            state = self._state_of(learner)
            assert learner.grad is not None
            tensors = learner, learner.grad, state["exp_avg"], state["exp_avg_sq"]
            for column, tensor in zip(columns, tensors, strict=True):
                column.extend(pieces_of(_alike(tensor, learner), size))
            counters += self._counters_of(learner, len(columns[0]) - len(counters))
        self._launch(group, columns, counters)

    @staticmethod
    def _launch(
        group: Mapping[str, Any], columns: tuple[list[Tensor], ...], counters: list[Tensor]
    ) -> None:
        parameters, gradients, first, second = columns
        beta1, beta2 = group["betas"]
        adam(
            parameters,
            gradients,
            first,
            second,
            [],
            counters,
            fused=True,
            capturable=group["capturable"],
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )

    def _counters_of(self, learner: nn.Parameter, count: int) -> Sequence[Tensor]:
        """A step counter for each piece, the first of which is the parameter's own."""
        found = self._counters.get(learner)
        if found is None or len(found) != count:
            state = self.state[learner]
            found = state["step"].repeat(count).unbind()
            state["step"], self._counters[learner] = found[0], found
        return found

    def _state_of(self, learner: nn.Parameter) -> dict[str, Tensor]:
        """As torch's Adam begins it."""
        state: dict[str, Tensor] = self.state[learner]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=learner.device)
            state["exp_avg"] = torch.zeros_like(learner, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(learner, memory_format=torch.preserve_format)
        return state


def _alike(tensor: Tensor, learner: Tensor) -> Tensor:
    """The numbers of a tensor in the order in which the parameter has its own."""
    if not lie_alike(tensor, learner):
        return torch.empty_like(learner).copy_(tensor)
    return tensor.detach()
