"""LeNet as the digits experiments of domain adaptation use it."""

from __future__ import annotations

from torch import Tensor, nn

from gam_ray.networks.base import MatchableNetwork, register_network


@register_network("lenet")
class LeNet(MatchableNetwork):
    """conv 5×5-20, pool, ReLU; conv 5×5-50, pool, ReLU; fc 500, ReLU; fc to the classes.

    Without BatchNorm, for 28×28 images in [0, 1]; the architecture of the digits code that
    the paper's authors published. Activations are taken after the ReLU:

    ======  ============  ==========
    layer   shape         parameters
    ======  ============  ==========
    conv1   [N, 20,12,12] 520
    conv2   [N, 50, 4, 4] 25,050
    fc3     [N, 500]      400,500
    fc4     [N, classes]  501 a class
    ======  ============  ==========
    """

    name = "lenet"
    features = "fc3"
    is_chain = True

    def __init__(self, in_channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(in_channels, 20, 5), nn.MaxPool2d(2), nn.ReLU())
        self.conv2 = nn.Sequential(nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.ReLU())
        self.fc3 = nn.Sequential(nn.Flatten(), nn.Linear(50 * 4 * 4, 500), nn.ReLU())
        self.fc4 = nn.Linear(500, classes)

    @property
    def layers(self) -> dict[str, nn.Module]:
        """conv1, conv2, fc3 and fc4."""
        return {"conv1": self.conv1, "conv2": self.conv2, "fc3": self.fc3, "fc4": self.fc4}

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, classes] of images [N, in_channels, 28, 28].

        Raises:
            ValueError: If the images are not 28×28.
        """
        if images.shape[-2:] != (28, 28):
            size = "×".join(str(side) for side in images.shape[-2:])
            raise ValueError(f"{self.name} takes 28×28 images, but got {size}; resize them")
        logits: Tensor = self.fc4(self.fc3(self.conv2(self.conv1(images))))
        return logits


@register_network("lenet-bn")
class LeNetBN(LeNet):
    """`LeNet` with BatchNorm behind both convolutions and fc3's matrix, before pool and ReLU.

    Not the paper's: for comparison with methods that adapt BatchNorm. Layers, shapes and sizes
    of images are `LeNet`'s; 40, 100 and 1,000 parameters come on top in conv1, conv2 and fc3.
    """

    name = "lenet-bn"

    def __init__(self, in_channels: int = 1, classes: int = 10) -> None:
        super().__init__(in_channels, classes)
        self.conv1.insert(1, nn.BatchNorm2d(20))
        self.conv2.insert(1, nn.BatchNorm2d(50))
        self.fc3.insert(2, nn.BatchNorm1d(500))
