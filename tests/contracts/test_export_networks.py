"""What every registered network must keep when it is exported."""

from pathlib import Path

import pytest
import torch
from test_networks import SEGMENTATION_SIDES, SIDES, build

from gam_ray.export.model import PredictionModel, load_program, save_program, to_program
from gam_ray.networks import network_names


@pytest.mark.parametrize("name", network_names())
def test_a_saved_program_equals_the_network_for_other_batches_and_sizes(
    name: str, tmp_path: Path
) -> None:
    network = build(name).eval()
    height, width = (
        max(side, 2 * network.multiple) for side in SIDES.get(name, SEGMENTATION_SIDES)
    )
    model = PredictionModel(network, (height, width))
    save_program(to_program(model, 1), tmp_path / "model.pt2")
    run = load_program(tmp_path / "model.pt2")
    sides = [(height, width), (height + network.multiple, width + 2 * network.multiple)]
    generator = torch.Generator().manual_seed(0)
    for count, size in ((1, sides[0]), (5, sides[0]), (3, sides[1])):
        images = torch.randint(256, (count, 1, *size), generator=generator, dtype=torch.uint8)
        with torch.no_grad():
            torch.testing.assert_close(run(images), model(images))
    with torch.no_grad():
        plain = network(images[..., :height, :width].float() / 255).softmax(1)
        found = run(images[..., :height, :width].contiguous())
    if network.stride in (None, 1):
        torch.testing.assert_close(found, plain)
