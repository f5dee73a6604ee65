"""The programs: equal to the network, matchings included, and held against it before they count."""

from pathlib import Path

import numpy as np
import pytest
import torch
from exportable import opinionated
from PIL import Image

from gam_ray.adaptation import layer_moments, layers_to_match, match_network
from gam_ray.export import model as exported
from gam_ray.export.model import (
    PredictionModel,
    check_files,
    load_onnx,
    load_program,
    save_onnx,
    save_program,
    to_program,
)
from gam_ray.networks import MatchableNetwork


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


def matched(network: MatchableNetwork) -> MatchableNetwork:
    """The network, matched from bright to dark images in closed form."""
    bright, dark = draw(32, 1, 28, 28) / 255, draw(32, 1, 28, 28, seed=1) / 1000
    moments = layer_moments(network, layers_to_match(network.layers), [bright])
    match_network(network, network.layers, moments, lambda: [dark])
    return network


def test_both_files_give_what_a_matched_network_gives_at_any_size(tmp_path: Path) -> None:
    network = opinionated("lenet", in_channels=1, classes=10)
    images = draw(6, 1, 28, 28, seed=2)
    with torch.no_grad():
        unmatched = network(images / 255).softmax(1)
        expected = matched(network)(images / 255).softmax(1)
    assert (expected - unmatched).abs().max() > 0.01
    program = to_program(PredictionModel(network, (28, 28)), 1)
    save_program(program, tmp_path / "model.pt2")
    save_onnx(program, tmp_path / "model.onnx")
    runs = load_program(tmp_path / "model.pt2"), load_onnx(tmp_path / "model.onnx")
    for run in runs:
        torch.testing.assert_close(run(images), expected, atol=1e-5, rtol=0)
    picture = Image.fromarray(draw(4, 4).numpy()).resize((90, 50), Image.Resampling.BICUBIC)
    small = picture.resize((28, 28), Image.Resampling.BILINEAR)
    for run in runs:
        of_large, of_small = (
            run(torch.from_numpy(np.array(each))[None, None]) for each in (picture, small)
        )
        torch.testing.assert_close(of_large, of_small, atol=0.01, rtol=0)


@pytest.mark.slow
def test_a_segmentation_network_takes_any_multiple_in_both_files(tmp_path: Path) -> None:
    network = opinionated("erfnet-encoder", in_channels=3, classes=5)
    model = PredictionModel(network, (16, 24))
    program = to_program(model, 3)
    save_program(program, tmp_path / "model.pt2")
    save_onnx(program, tmp_path / "model.onnx")
    found = check_files(model, tmp_path, draw(3, 3, 16, 24))
    assert set(found) == {"model.pt2", "model.onnx"}
    for run in (load_program(tmp_path / "model.pt2"), load_onnx(tmp_path / "model.onnx")):
        probabilities = run(draw(2, 3, 40, 16))
        assert probabilities.shape == (2, 5, 40, 16)
        torch.testing.assert_close(probabilities.sum(1), torch.ones(2, 40, 16))


def test_a_file_that_gives_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = opinionated("two-layers", in_channels=1, classes=3)
    model = PredictionModel(network, (12, 16))
    save_program(to_program(model, 1), tmp_path / "model.pt2")
    monkeypatch.setattr(exported, "TOLERANCES", {"model.pt2": 1e-5})
    assert check_files(model, tmp_path, draw(2, 1, 12, 16)) == {"model.pt2": 0.0}
    with torch.no_grad():
        network.layer2.bias += torch.tensor([0.0, 0.0, 1.0])
    with pytest.raises(RuntimeError, match=r"exported model\.pt2 gives other probabilities"):
        check_files(model, tmp_path, draw(2, 1, 12, 16))
    torch.nn.init.constant_(network.layer2.bias, float("nan"))
    with pytest.raises(RuntimeError, match="by up to nan"):
        check_files(model, tmp_path, draw(2, 1, 12, 16))
