"""What can still be read from features: by a linear probe, by a small network, by the nearest class centre.

A probe is trained on features with their labels and asked for the labels of others. A network that was retrained
without a concept still separates it, so the target of a probe is never chance: it is the same probe's reading of the
retrained network's features, on the same samples.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from lashley.errors import DataError
from lashley.kernels import full_precision
from lashley.stats.inputs import Array, Label, Labels, class_order, label_list, matrix, same_width

__all__ = ["Reading", "head_probe", "linear_probe", "mlp_probe", "nearest_centre"]


@dataclass(frozen=True)
class Reading:
    """What a probe made of the test samples.

    Attributes:
        accuracy: the share of test samples that got their own label.
        recall: the same for the samples of each class, by label; only classes that the test samples have.
        predicted: ``[N]`` on the host: the labels given, if labels are whole numbers, or else their places in
            ``classes``.
        classes: the labels of the training samples, sorted.
    """

    accuracy: float
    recall: dict[Label, float]
    predicted: Tensor
    classes: tuple[Label, ...]


def linear_probe(
    features: Array, labels: Labels, test_features: Array, test_labels: Labels, *, ridge: float = 1e-3
) -> Reading:
    """Balanced ridge regression onto one-hot labels, in closed form; the highest output wins.

    ``min_{A, b}  sum_i w_i ||A (x_i - m) + b - y_i||^2 + lambda ||A||^2``, ``w_i = 1 / (C n_c)`` for the C classes of
    n_c samples: every class counts the same. m is the mean under those weights and ``lambda = ridge tr(cov) / D``, so
    that a scale of the features changes nothing. The constant is not shrunk.

    Direction: the target is the retrained network's reading. Range: [0, 1], chance 1 / C.

    Args:
        features, labels: ``[N, D]`` and N labels, whole numbers or strings.
        test_features, test_labels: of other samples.
        ridge: the penalty as a share of a feature's mean variance; above 0.

    Raises:
        DataError: other widths or numbers, no samples, one class only, a test label that training lacks, values that
            are not finite, features that are the same for every sample, a ridge that is not above 0.
    """
    if not ridge > 0:
        raise DataError(f"Expected ridge above 0, got {ridge}.")
    task = _Task.of(features, labels, test_features, test_labels)
    weights = task.weights()
    root = weights.sqrt()[:, None]
    mean = weights @ task.features
    one_hot = torch.eye(len(task.classes), dtype=torch.float64, device=weights.device)[task.codes]
    # The mean of the outputs is 1 / C for every class, so b does not decide which is the highest and is left out.
    x, y = root * (task.features - mean), root * one_hot
    penalty = ridge * x.square().sum() / x.shape[1]
    if x.shape[1] <= len(x):
        solved = torch.linalg.solve(_plus(x.T @ x, penalty), x.T @ y)
    else:
        solved = x.T @ torch.linalg.solve(_plus(x @ x.T, penalty), y)  # the same, in the smaller space
    return task.reading((task.test - mean) @ solved)


def nearest_centre(features: Array, labels: Labels, test_features: Array, test_labels: Labels) -> Reading:
    """Every test sample gets the class whose mean is nearest (Euclidean). Nothing is fitted.

    Direction: the target is the retrained network's reading. Range: [0, 1], chance 1 / C.

    Arguments and errors as in `linear_probe`.
    """
    task = _Task.of(features, labels, test_features, test_labels)
    centres = torch.stack([task.features[task.codes == code].mean(0) for code in range(len(task.classes))])
    return task.reading(-torch.cdist(task.test, centres, compute_mode="donot_use_mm_for_euclid_dist"))


def mlp_probe(
    features: Array,
    labels: Labels,
    test_features: Array,
    test_labels: Labels,
    *,
    hidden: int = 64,
    epochs: int = 30,
    rate: float = 3e-3,
    decay: float = 1e-4,
    batch_size: int = 128,
    seed: int = 0,
) -> Reading:
    """A network with one hidden layer of ReLUs trained on the features: what a nonlinear reader finds.

    Features are standardised with the mean and the deviation of the training samples, cross-entropy counts every class
    the same, AdamW trains in float32. How much is found depends on all of that: compare readings of the same settings
    only.

    Direction: the target is the retrained network's reading. Range: [0, 1], chance 1 / C.

    Args:
        features, labels, test_features, test_labels: as in `linear_probe`, and with the same errors.
        hidden: units of the hidden layer.
        epochs, rate, decay, batch_size: of the training.
        seed: of first weights and batches, drawn on the host whatever the device. The caller's generators are left
            alone.
    """
    _positive(hidden=hidden, epochs=epochs, rate=rate, batch_size=batch_size)
    task = _Task.of(features, labels, test_features, test_labels)
    spread = task.features.std(0, correction=0)
    task = task.scaled(task.features.mean(0), torch.where(spread > 0, spread, 1.0))
    weights = task.weights() * len(task.features)
    return task.reading(_fit(task, weights, [hidden], epochs, rate, decay, batch_size, seed))


def head_probe(
    features: Array,
    labels: Labels,
    test_features: Array,
    test_labels: Labels,
    *,
    epochs: int = 3,
    rate: float = 1e-4,
    batch_size: int = 128,
    seed: int = 0,
) -> Reading:
    """A new linear head, trained for a moment: Adam at 1e-4 for 3 epochs on features and classes as they come.

    The linear probe of Kim et al.'s published code. It says how far a few steps get rather than what is there: with few
    samples the head has hardly moved. `linear_probe` has no such limit.

    Direction: the target is the retrained network's reading. Range: [0, 1].

    Args:
        features, labels, test_features, test_labels: as in `linear_probe`, and with the same errors.
        epochs, rate, batch_size: of the training.
        seed: as in `mlp_probe`.
    """
    _positive(epochs=epochs, rate=rate, batch_size=batch_size)
    task = _Task.of(features, labels, test_features, test_labels)
    return task.reading(_fit(task, torch.ones_like(task.features[:, 0]), [], epochs, rate, 0.0, batch_size, seed))


@dataclass(frozen=True)
class _Task:
    features: Tensor  # [N, D] in float64
    codes: Tensor  # [N], places in classes
    test: Tensor  # [M, D]
    truth: list[Label]  # of the test samples
    classes: list[Label]

    @classmethod
    def of(cls, features: Array, labels: Labels, test_features: Array, test_labels: Labels) -> _Task:
        x, test = same_width(matrix(features, "features"), matrix(test_features, "test_features"))
        own, truth = label_list(labels, "labels", len(x)), label_list(test_labels, "test_labels", len(test))
        classes = class_order(own)
        if len(classes) < 2:
            raise DataError(f"Expected at least 2 classes to tell apart, got only {classes[0]!r}.")
        unknown = [label for label in dict.fromkeys(truth) if label not in classes]
        if unknown:
            raise DataError(f"Expected test labels that the training samples have, got {unknown}; known are {classes}.")
        if bool((x == x[0]).all()):
            raise DataError("Expected features that differ between samples, got one row repeated.")
        place = {label: code for code, label in enumerate(classes)}
        return cls(x, torch.tensor([place[label] for label in own], device=x.device), test, truth, classes)

    def scaled(self, mean: Tensor, spread: Tensor) -> _Task:
        features, test = ((x - mean) / spread for x in (self.features, self.test))
        return _Task(features, self.codes, test, self.truth, self.classes)

    def weights(self) -> Tensor:
        """Of the training samples: 1 in all, as much for every class."""
        counts = torch.bincount(self.codes, minlength=len(self.classes))
        return (1 / (len(counts) * counts.to(torch.float64)))[self.codes]

    def reading(self, scores: Tensor) -> Reading:
        """Of scores ``[M, classes]``: the highest wins, of equal ones the first."""
        places = scores.argmax(1).cpu()
        predicted = [self.classes[place] for place in places.tolist()]
        hits: dict[Label, list[bool]] = {label: [] for label in class_order(self.truth)}
        for guess, label in zip(predicted, self.truth, strict=True):
            hits[label].append(guess == label)
        return Reading(
            sum(map(sum, hits.values())) / len(predicted),
            {label: sum(own) / len(own) for label, own in hits.items()},
            torch.tensor(predicted) if isinstance(predicted[0], int) else places,
            tuple(self.classes),
        )


def _fit(
    task: _Task, weights: Tensor, hidden: list[int], epochs: int, rate: float, decay: float, batch_size: int, seed: int
) -> Tensor:
    """Scores of the test samples by a network with these hidden layers after training."""
    generator = torch.Generator().manual_seed(seed)
    device = task.features.device
    # A caller's no_grad, inference mode (of which False is also the end of no_grad) or autocast must not reach in here.
    with torch.inference_mode(False), full_precision(device):
        x, test, share = (tensor.to(torch.float32, copy=True) for tensor in (task.features, task.test, weights))
        codes = task.codes.clone()
        layers = []
        for width, out in itertools.pairwise([x.shape[1], *hidden, len(task.classes)]):
            drawn = (torch.rand(out, width + 1, generator=generator) * 2 - 1) / width**0.5
            layers.append(drawn.to(device).requires_grad_())

        def scores(rows: Tensor) -> Tensor:
            for number, layer in enumerate(layers):
                rows = (rows.relu() if number else rows) @ layer[:, :-1].T + layer[:, -1]
            return rows

        optimizer = torch.optim.AdamW(layers, lr=rate, weight_decay=decay)
        for _ in range(epochs):
            for batch in torch.randperm(len(x), generator=generator).to(device).split(batch_size):
                told = scores(x[batch]).log_softmax(1).gather(1, codes[batch, None]).squeeze(1)
                optimizer.zero_grad()
                (share[batch] * -told).mean().backward()
                optimizer.step()
        return scores(test).detach()


def _plus(square: Tensor, penalty: Tensor) -> Tensor:
    return square + penalty * torch.eye(len(square), dtype=square.dtype, device=square.device)


def _positive(**settings: float) -> None:
    for name, value in settings.items():
        if not value > 0:
            raise DataError(f"Expected {name} above 0, got {value}.")
