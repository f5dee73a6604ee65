"""A network with its preprocessing inside, as a program of torch and of ONNX."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn.functional import interpolate

from gam_ray.networks import MatchableNetwork
from gam_ray.training.data import to_float
from gam_ray.training.evaluation import full_size

INPUT, OUTPUT = "images", "probabilities"
# A segmentation network takes so many multiples a side, or more.
LEAST_MULTIPLES = 2
# Largest difference of a probability, to the network as it was trained, that an exported file may
# have: torch computes the same, ONNX sums in another order.
TOLERANCES = {"model.pt2": 1e-5, "model.onnx": 1e-4}

Probabilities = Callable[[Tensor], Tensor]


class PredictionModel(nn.Module):
    """Images as they are → probabilities.

    Args:
        network: Put into evaluation mode.
        size: Height and width of the images that it was trained on.
    """

    def __init__(self, network: MatchableNetwork, size: tuple[int, int]) -> None:
        super().__init__()
        self.network = network
        self.size = size
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Softmax of images, uint8 [N, C, H, W] in 0-255.

        Returns:
            Of a classifier [N, classes]; it stretches images of other sizes to its own. Of a
            segmentation network [N, classes, H, W]; H and W are multiples of its `multiple`.
        """
        floats = to_float(images)
        if self.network.stride is None:
            stretched = interpolate(floats, self.size, mode="bilinear", antialias=True)
            return self.network(stretched).softmax(1)
        logits = full_size(self.network(floats), (images.shape[-2], images.shape[-1]))
        return logits.softmax(1)


def to_program(model: PredictionModel, channels: int) -> ExportedProgram:
    """The model as a program that needs no code of gam_ray, for batches and images of any size.

    Args:
        model: On the CPU.
        channels: Of the images.

    Raises:
        ValueError: If a segmentation network was trained on images smaller than two of its
            multiples: torch takes a side of one place for a constant.
    """
    multiple = model.network.multiple if model.network.stride else 1
    least = LEAST_MULTIPLES if model.network.stride else 1
    if min(model.size) < least * multiple:
        raise ValueError(
            f"a segmentation network is exported for sides of {least * multiple} pixels or more, "
            f"but this one was trained on {model.size[0]}×{model.size[1]}"
        )
    images = torch.zeros((2, channels, *model.size), dtype=torch.uint8)
    rows, columns = (multiple * Dim(name, min=least) for name in ("rows", "columns"))
    free = {0: Dim("batch"), 2: rows, 3: columns}
    with torch.no_grad():
        return torch.export.export(model, (images,), dynamic_shapes=(free,))


def save_program(program: ExportedProgram, file: Path) -> None:
    """Write a program for `load_program`."""
    torch.export.save(program, file)


def load_program(file: Path) -> Probabilities:
    """What `save_program` wrote: uint8 images [N, C, H, W] → probabilities."""
    module = torch.export.load(file).module()

    def run(images: Tensor) -> Tensor:
        with torch.no_grad():
            probabilities: Tensor = module(images)
        return probabilities

    return run


def save_onnx(program: ExportedProgram, file: Path) -> None:
    """Write a program as ONNX, in one file."""
    translated = torch.onnx.export(
        program, dynamo=True, input_names=[INPUT], output_names=[OUTPUT], verbose=False
    )
    assert translated is not None
    translated.save(file)


def load_onnx(file: Path) -> Probabilities:
    """What `save_onnx` wrote, run by onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        (probabilities,) = session.run([OUTPUT], {INPUT: images.numpy()})
        return torch.from_numpy(probabilities)

    return run


def check_files(model: PredictionModel, folder: Path, images: Tensor) -> dict[str, float]:
    """Hold the files against the model: on a batch, on a single image, and on another size.

    Args:
        model: What was written.
        folder: Has the files that `TOLERANCES` names.
        images: uint8 [N, C, H, W] of the model's own size.

    Returns:
        File name → the largest difference of a probability.

    Raises:
        RuntimeError: If it is larger than `TOLERANCES` allows.
    """
    loaders = {"model.pt2": load_program, "model.onnx": load_onnx}
    found = {}
    for name, tolerance in TOLERANCES.items():
        run = loaders[name](folder / name)
        found[name] = max(_difference(model, run, batch) for batch in _batches(model, images))
        if not found[name] <= tolerance:
            raise RuntimeError(
                f"the exported {name} gives other probabilities than the network, by up to "
                f"{found[name]:.2g} where {tolerance:g} is allowed"
            )
    return found


def _batches(model: PredictionModel, images: Tensor) -> Iterator[Tensor]:
    yield images
    yield images[:1]
    multiple = model.network.multiple
    larger = (model.size[0] + multiple, model.size[1] + 2 * multiple)
    yield interpolate(images[:2], larger)


@torch.no_grad()
def _difference(model: PredictionModel, run: Probabilities, images: Tensor) -> float:
    return float((run(images) - model(images)).abs().max())
