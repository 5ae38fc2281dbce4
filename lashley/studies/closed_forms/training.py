"""How the study's networks are trained: a recipe in, a network out, the same on the same machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lashley.studies.closed_forms.networks import ARCHITECTURES, Autoencoder

__all__ = ["Recipe", "reconstructing", "shifted", "train"]


@dataclass(frozen=True)
class Recipe:
    """SGD with momentum under a one-cycle schedule, on images in the order of a seed.

    Attributes:
        architecture: a key of `lashley.studies.closed_forms.networks.ARCHITECTURES`.
        epochs, batch: how long, and how many images at a time.
        learning_rate: the highest of the schedule.
        momentum, weight_decay: of SGD (Nesterov).
        crop: pixels by which training images are shifted at most, with zeros coming in; 0: not at all.
        flip: whether every other training image, by chance, is mirrored.
        bfloat16: whether the products of the training are (autocast); what is measured later is float32.
    """

    architecture: str
    epochs: int
    batch: int = 256
    learning_rate: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    crop: int = 0
    flip: bool = False
    bfloat16: bool = False

    def to_json(self) -> dict[str, Any]:
        """The settings, for keys and checkpoints."""
        return asdict(self)


def train(
    recipe: Recipe,
    images: Tensor,
    labels: Tensor,
    classes: int,
    seed: int,
    say: Callable[[str], None] = lambda line: None,
) -> nn.Sequential:
    """A network trained on images ``[N, C, H, W]`` (as the network wants them) and labels ``[N]``, in evaluation mode.

    The seed fixes the first weights, the order of the images and their shifts.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shape = images.shape[1], images.shape[2], images.shape[3]
        model: Any = ARCHITECTURES[recipe.architecture](shape, classes)
        model.to(memory_format=torch.channels_last)
        steps = recipe.epochs * -(-len(labels) // recipe.batch)
        optimiser = torch.optim.SGD(
            model.parameters(),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=True,
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.learning_rate, total_steps=steps)
        for epoch in range(recipe.epochs):
            total = torch.zeros(())
            for chosen in torch.randperm(len(labels)).split(recipe.batch):
                batch = shifted(images[chosen], recipe.crop, recipe.flip).contiguous(memory_format=torch.channels_last)
                with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
                    loss = nn.functional.cross_entropy(model(batch), labels[chosen])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                total += loss.detach() * len(chosen)
            say(f"epoch {epoch + 1} of {recipe.epochs}: loss {total.item() / len(labels):.4f}")
    trained: nn.Sequential = model.to(memory_format=torch.contiguous_format).eval()
    return trained


def shifted(images: Tensor, crop: int, flip: bool) -> Tensor:
    """Each image of ``[N, C, H, W]`` moved by up to ``crop`` pixels in both directions and, by chance, mirrored."""
    count, channels, height, width = images.shape
    if crop:
        padded = nn.functional.pad(images, (crop, crop, crop, crop))
        down, right = (torch.randint(2 * crop + 1, (count,)) for _ in range(2))
        rows = (down[:, None] + torch.arange(height))[:, None, :, None]
        columns = (right[:, None] + torch.arange(width))[:, None, None, :]
        images = padded[torch.arange(count)[:, None, None, None], torch.arange(channels)[:, None, None], rows, columns]
    if flip:
        mirrored = torch.rand(count) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    return images


def reconstructing(settings: Mapping[str, Any], images: Tensor, seed: int) -> Autoencoder:
    """An autoencoder trained by Adam on the squared error of the pixels of images ``[N, C, H, W]`` in 0..1.

    Args:
        settings: "epochs", "batch", "learning_rate".
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Autoencoder((images.shape[1], images.shape[2], images.shape[3]))
        optimiser = torch.optim.Adam(model.parameters(), lr=settings["learning_rate"])
        for _ in range(settings["epochs"]):
            for chosen in torch.randperm(len(images)).split(settings["batch"]):
                loss = nn.functional.mse_loss(model(images[chosen]), images[chosen])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
    return model.eval()
