"""ERFNet as its paper and its authors' code have it."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gam_ray.adaptation import Taps
from gam_ray.networks import ERFNet, ERFNetEncoder, MatchableNetwork
from gam_ray.networks.erfnet import ColumnConv


def parameters(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def shapes(network: MatchableNetwork, images: Tensor) -> list[tuple[int, ...]]:
    with Taps(network.layers) as taps, torch.no_grad():
        network.eval()(images)
    return [tuple(value.shape) for value in taps.seen.values()]


def down(k: int, out: int) -> int:
    """The convolution 3×3 to out − k channels, its bias, and the BatchNorm over all."""
    return (9 * k + 1) * (out - k) + 2 * out


def up(k: int, out: int) -> int:
    return (9 * k + 1) * out + 2 * out


def block(k: int) -> int:
    """Four convolutions of three taps with their biases, two BatchNorms."""
    return 4 * (3 * k + 1) * k + 2 * 2 * k


def test_the_parameters_are_as_many_as_published() -> None:
    encoder, full = ERFNetEncoder(), ERFNet()
    body = [encoder.layers[f"layer{number}"] for number in range(1, 17)]
    decoder = [full.layers[f"layer{number}"] for number in range(17, 24)]
    assert parameters(*body) == 1_874_044
    assert parameters(encoder.layers["layer17"]) == 2_451
    assert parameters(*decoder) == 190_147
    assert parameters(full) == 2_064_191


@pytest.mark.parametrize(("channels", "classes"), [(3, 19), (1, 7)])
def test_the_parameters_follow_from_the_architecture(channels: int, classes: int) -> None:
    body = [down(channels, 16), down(16, 64), *[block(64)] * 5, down(64, 128), *[block(128)] * 8]
    decoder = [up(128, 64), *[block(64)] * 2, up(64, 16), *[block(16)] * 2]
    encoder = ERFNetEncoder(channels, classes)
    full = ERFNet(channels, classes)
    assert [parameters(layer) for layer in encoder.layers.values()] == [*body, 129 * classes]
    counts = [parameters(layer) for layer in full.layers.values()]
    assert counts == [*body, *decoder, (4 * 16) * classes + classes]


def test_activations_have_the_documented_shapes() -> None:
    images = torch.rand(2, 3, 64, 32)
    body = [
        (2, 16, 32, 16),
        *[(2, 64, 16, 8)] * 6,
        *[(2, 128, 8, 4)] * 9,
    ]
    assert shapes(ERFNetEncoder(), images) == [*body, (2, 19, 8, 4)]
    decoder = [*[(2, 64, 16, 8)] * 3, *[(2, 16, 32, 16)] * 3, (2, 19, 64, 32)]
    assert shapes(ERFNet(), images) == [*body, *decoder]


def test_dilations_and_dropout_are_the_papers() -> None:
    blocks = [layer for layer in ERFNet().layers.values() if hasattr(layer, "residual")]
    convolutions = [
        [part for part in block.modules() if isinstance(part, nn.Conv2d)] for block in blocks
    ]
    dilations = [(parts[2].dilation, parts[3].dilation) for parts in convolutions]
    assert dilations == [((d, 1), (1, d)) for d in [1] * 5 + [2, 4, 8, 16] * 2 + [1] * 4]
    assert all(part.dilation == (1, 1) for parts in convolutions for part in parts[:2])
    dropouts = [
        part.p for block in blocks for part in block.modules() if isinstance(part, nn.Dropout2d)
    ]
    assert dropouts == [0.03] * 5 + [0.3] * 8 + [0.0] * 4


@pytest.mark.parametrize("dilation", [1, 2, 4, 16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_dilated_column_is_one_without_dilation_on_maps_read_otherwise(
    dilation: int, layout: torch.memory_format
) -> None:
    column = ColumnConv(4, dilation=dilation).double()
    maps = torch.rand(2, 4, 32, 5, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    found, expected = column.wide(maps), column(maps)
    torch.testing.assert_close(found, expected)
    assert found.stride() == expected.stride()
    direction = torch.rand_like(found)
    for one, other in zip(
        torch.autograd.grad((found * direction).sum(), (maps, *column.parameters())),
        torch.autograd.grad((expected * direction).sum(), (maps, *column.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_every_batch_norm_has_the_authors_epsilon() -> None:
    norms = [part for part in ERFNet().modules() if isinstance(part, nn.BatchNorm2d)]
    assert len(norms) == 3 + 2 * 13 + 2 + 2 * 4
    assert {norm.eps for norm in norms} == {1e-3}


def test_a_block_is_the_written_out_one() -> None:
    network = ERFNetEncoder().eval()
    p = {
        name.removeprefix("layer10.residual."): value
        for name, value in network.state_dict().items()
        if name.startswith("layer10.")
    }

    def conv(maps: Tensor, number: int, padding: tuple[int, int], dilation: int) -> Tensor:
        weight, bias = p[f"{number}.weight"], p[f"{number}.bias"]
        step = tuple(max(1, side) for side in padding) if dilation > 1 else (1, 1)
        return functional.conv2d(maps, weight, bias, padding=padding, dilation=step)

    maps = torch.rand(2, 128, 12, 12)
    expected = conv(maps, 0, (1, 0), 1).clamp(min=0)
    expected = conv(expected, 2, (0, 1), 1) / (1 + 1e-3) ** 0.5
    expected = conv(expected.clamp(min=0), 5, (4, 0), 4).clamp(min=0)
    expected = conv(expected, 7, (0, 4), 4) / (1 + 1e-3) ** 0.5
    expected = (expected + maps).clamp(min=0)
    torch.testing.assert_close(network.layers["layer10"](maps), expected)


def test_a_downsampler_puts_convolved_channels_before_pooled_ones() -> None:
    first = ERFNetEncoder().eval().layers["layer1"]
    images = torch.rand(2, 3, 8, 8)
    pooled = functional.max_pool2d(images, 2) / (1 + 1e-3) ** 0.5
    torch.testing.assert_close(first(images)[:, 13:], pooled)


@pytest.mark.parametrize("network", [ERFNetEncoder, ERFNet])
def test_sides_that_do_not_fit_are_answered_with_sides_that_do(
    network: type[MatchableNetwork],
) -> None:
    message = "sides are multiples of 8, but got 30×3; resize or crop them, for instance to 32×8"
    with pytest.raises(ValueError, match=message):
        network()(torch.rand(1, 3, 30, 3))


def drawn_streets() -> tuple[Tensor, Tensor]:
    """Four images [4, 3, 32, 32] of a sky, a ground and a box, and their classes a pixel."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.zeros(4, 32, 32, dtype=torch.long)
    for index, label in enumerate(labels):
        label[12 + 4 * (index % 2) :] = 1
        label[8:24, 4 * index + 4 : 4 * index + 16] = 2
    colours = torch.tensor([[0.5, 0.7, 0.9], [0.4, 0.4, 0.4], [0.8, 0.3, 0.2]])
    noise = 0.1 * torch.rand(4, 3, 32, 32, generator=generator)
    return colours[labels].movedim(-1, 1) + noise, labels


def test_the_encoder_learns_four_drawn_images() -> None:
    images, labels = drawn_streets()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = ERFNetEncoder(3, 3)
        optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
        for _ in range(100):
            logits = functional.interpolate(network(images), scale_factor=8, mode="bilinear")
            loss = functional.cross_entropy(logits, labels)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
    with torch.no_grad():
        logits = functional.interpolate(network.eval()(images), scale_factor=8, mode="bilinear")
    accuracy = (logits.argmax(1) == labels).float().mean()
    assert accuracy > 0.95
