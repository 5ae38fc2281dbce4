"""The networks of the study.

Every classifier is ``readout(features(x))``, with features ``[N, F]`` and one linear readout, for images of ``shape``
``(channels, height, width)``.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor, nn

from lashley.errors import DataError

__all__ = ["ARCHITECTURES", "Autoencoder", "Block", "Shape", "convnet", "mlp", "resnet"]

WIDTHS = (16, 32, 64, 128)


Shape = tuple[int, int, int]


def mlp(shape: Shape, classes: int) -> nn.Sequential:
    """Two hidden layers of 500 and 100, ReLU, no biases: the paper's network for MNIST (784-500-100-10)."""
    features = nn.Sequential(
        OrderedDict(
            flat=nn.Flatten(),
            hidden1=nn.Linear(math.prod(shape), 500, bias=False),
            relu1=nn.ReLU(),
            hidden2=nn.Linear(500, 100, bias=False),
            relu2=nn.ReLU(),
        )
    )
    return nn.Sequential(OrderedDict(features=features, readout=nn.Linear(100, classes, bias=False)))


def convnet(shape: Shape, classes: int) -> nn.Sequential:
    """Three 3 x 3 convolutions of stride 2 with 16, 32 and 64 channels, each with BatchNorm and ReLU; mean over all."""
    features = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(shape[0], 16, 3, stride=2, padding=1, bias=False),
            norm1=nn.BatchNorm2d(16),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
            norm2=nn.BatchNorm2d(32),
            relu2=nn.ReLU(),
            conv3=nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False),
            norm3=nn.BatchNorm2d(64),
            relu3=nn.ReLU(),
            mean=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
        )
    )
    return nn.Sequential(OrderedDict(features=features, readout=nn.Linear(64, classes)))


class Block(nn.Module):
    """Two 3 x 3 convolutions with BatchNorm beside a shortcut (He et al. 2016, the basic block)."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(
                OrderedDict(conv=nn.Conv2d(channels, out, 1, stride=stride, bias=False), norm=nn.BatchNorm2d(out))
            )
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
        return self.relu2(inner + self.shortcut(x))


def resnet(shape: Shape, classes: int) -> nn.Sequential:
    """ResNet-10 with 16 to 128 channels: a stem and four stages of one basic block, convolutions without bias."""
    channels = WIDTHS[0]
    features: OrderedDict[str, nn.Module] = OrderedDict(
        stem=nn.Conv2d(shape[0], channels, 3, padding=1, bias=False), norm=nn.BatchNorm2d(channels), relu=nn.ReLU()
    )
    for stage, width in enumerate(WIDTHS, start=1):
        features[f"block{stage}"] = Block(channels, width, stride=1 if stage == 1 else 2)
        channels = width
    features["mean"] = nn.AdaptiveAvgPool2d(1)
    features["flat"] = nn.Flatten()
    return nn.Sequential(OrderedDict(features=nn.Sequential(features), readout=nn.Linear(channels, classes)))


class Autoencoder(nn.Sequential):
    """28 x 28 pixels to a code of 64 numbers and back: 3 x 3 convolutions of stride 2 with 16 and 32 channels and a
    linear layer, then the same backwards with transposed convolutions (the paper's figure 5 leaves the decoder open).
    """

    def __init__(self, shape: Shape) -> None:
        channels, height, width = shape
        if height % 4 or width % 4:
            raise DataError(f"Expected images whose sides divide by 4, got {height} x {width}.")
        inner = (32, height // 4, width // 4)
        encoder: OrderedDict[str, nn.Module] = OrderedDict(
            conv1=nn.Conv2d(channels, 16, 3, stride=2, padding=1),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(16, 32, 3, stride=2, padding=1),
            relu2=nn.ReLU(),
            flat=nn.Flatten(),
            code=nn.Linear(math.prod(inner), 64),
        )
        decoder: OrderedDict[str, nn.Module] = OrderedDict(
            code=nn.Linear(64, math.prod(inner)),
            relu1=nn.ReLU(),
            unflat=nn.Unflatten(1, inner),
            conv1=nn.ConvTranspose2d(32, 16, 3, stride=2, padding=1, output_padding=1),
            relu2=nn.ReLU(),
            conv2=nn.ConvTranspose2d(16, channels, 3, stride=2, padding=1, output_padding=1),
            sigmoid=nn.Sigmoid(),
        )
        super().__init__(OrderedDict(encoder=nn.Sequential(encoder), decoder=nn.Sequential(decoder)))


ARCHITECTURES: dict[str, Callable[[Shape, int], nn.Sequential]] = {"mlp": mlp, "convnet": convnet, "resnet": resnet}
