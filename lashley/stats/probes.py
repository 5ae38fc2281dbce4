"""What can still be read from features: a linear probe, a small network, the nearest class centre.

A probe is trained on features with their labels and asked for the labels of others. A network that was retrained without
a concept still separates it, so no probe's target is chance: it is the same probe's reading on a retrained network.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lashley.errors import DataError
from lashley.stats.inputs import Array, Label, Labels, class_order, label_list, matrix

__all__ = ["Reading", "head_probe", "linear_probe", "mlp_probe", "nearest_centre"]


@dataclass(frozen=True)
class Reading:
    """What a probe made of the test samples.

    Attributes:
        accuracy: share of test samples that got their own label.
        recall: the same for each class that the test samples have.
        predicted: ``[N]`` on the host: the labels given, where labels are whole numbers, otherwise their places in ``classes``.
        classes: the labels of the training samples, sorted.
    """

    accuracy: float
    recall: dict[Label, float]
    predicted: Tensor
    classes: tuple[Label, ...]


@dataclass(frozen=True)
class _Task:
    features: Tensor  # [N, D]
    codes: Tensor  # [N], places in classes
    test: Tensor  # [M, D]
    truth: list[Label]
    classes: list[Label]

    def weights(self, balanced: bool = True) -> Tensor:
        """Of each training sample; they sum to 1, over every class to the same where balanced."""
        counts = torch.bincount(self.codes, minlength=len(self.classes)).to(self.features)
        share = 1 / (len(counts) * counts) if balanced else torch.full_like(counts, 1 / len(self.codes))
        return share[self.codes]

    def reading(self, scores: Tensor) -> Reading:
        """Of scores ``[M, classes]``: the highest wins, of equals the first class."""
        places = scores.argmax(1).cpu()
        guesses = [self.classes[place] for place in places.tolist()]
        hits: dict[Label, list[bool]] = {label: [] for label in class_order(self.truth)}
        for guess, label in zip(guesses, self.truth, strict=True):
            hits[label].append(guess == label)
        numeric = isinstance(self.classes[0], int)
        return Reading(
            sum(map(sum, hits.values())) / len(guesses),
            {label: sum(own) / len(own) for label, own in hits.items()},
            torch.tensor(guesses) if numeric else places,
            tuple(self.classes),
        )


def linear_probe(
    features: Array, labels: Labels, test_features: Array, test_labels: Labels, *, ridge: float = 1e-3
) -> Reading:
    """Balanced ridge regression on one-hot labels, in closed form; the highest output wins.

    ``min_A,b  sum_i w_i ||A (x_i - m) + b - y_i||^2 + lambda ||A||^2`` with ``w_i = 1 / (C n_class(i))``, so that every
    class counts the same however many samples it has, m the mean under those weights, and ``lambda = ridge * tr(cov) / D``:
    scaling all features changes nothing. The constant is not shrunk.

    Direction: the retrained network's reading is the target. In [0, 1], chance 1 / C.

    Args:
        features, labels: ``[N, D]`` and N labels, whole numbers or strings.
        test_features, test_labels: of other samples.
        ridge: the penalty as a share of the mean variance of a feature; above 0.

    Raises:
        DataError: other widths or numbers, no samples, one class only, a test label that training lacks, values that are
            not finite, features that are the same for every sample.
    """
    if not ridge > 0:
        raise DataError(f"Expected ridge above 0, got {ridge}.")
    task = _task(features, labels, test_features, test_labels)
    weights = task.weights()
    mean = weights @ task.features
    root = weights.sqrt()[:, None]
    x = root * (task.features - mean)
    wanted = torch.nan_to_num(task.codes.new_zeros(len(x), len(task.classes)).to(x))
    wanted[torch.arange(len(x)), task.codes] = 1
    offset = weights @ wanted
    y = root * (wanted - offset)
    penalty = ridge * x.square().sum() / x.shape[1]
    if x.shape[1] <= len(x):
        solved = torch.linalg.solve(_plus(x.T @ x, penalty), x.T @ y)
    else:
        solved = x.T @ torch.linalg.solve(_plus(x @ x.T, penalty), y)  # the same, in the smaller of the two spaces
    return task.reading((task.test - mean) @ solved + offset)


def nearest_centre(features: Array, labels: Labels, test_features: Array, test_labels: Labels) -> Reading:
    """Each test sample gets the class whose mean is nearest in Euclidean distance. Nothing is trained.

    Direction: the retrained network's reading is the target. In [0, 1], chance 1 / C. Arguments and errors as in
    `linear_probe`.
    """
    task = _task(features, labels, test_features, test_labels)
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
    """A network with one hidden layer of ReLUs, trained on the features: what a nonlinear reader finds.

    Features are standardised by the training samples, every class counts the same in the cross-entropy, AdamW. Trained in
    float32 where the features are; the draws come from the host, so that a seed is a seed on every device.

    Direction: the retrained network's reading is the target. In [0, 1], chance 1 / C. Arguments and errors otherwise as in
    `linear_probe`.

    Args:
        hidden: units.
        epochs, rate, decay, batch_size: of the training.
        seed: of initial weights and batches; the caller's generators are left alone.
    """
    task = _task(features, labels, test_features, test_labels)
    mean = task.features.mean(0)
    spread = task.features.std(0, correction=0)
    spread = torch.where(spread > 0, spread, 1.0)
    train, test = ((x - mean).div(spread).float() for x in (task.features, task.test))
    scores = _fit(
        train,
        task.codes,
        task.weights().float() * len(train),
        test,
        len(task.classes),
        hidden=hidden,
        epochs=epochs,
        rate=rate,
        decay=decay,
        batch_size=batch_size,
        seed=seed,
    )
    return task.reading(scores)


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
    """A new linear head trained for a moment: Adam at 1e-4, 3 epochs, features and classes as they come.

    The probe of the unlearning literature's published code (Kim et al.). It measures how far a few steps get rather than
    what is there: with few samples it has hardly moved. `linear_probe` has no such limit.

    Direction: the retrained network's reading is the target. In [0, 1]. Arguments and errors as in `mlp_probe`.
    """
    task = _task(features, labels, test_features, test_labels)
    ones = torch.ones(len(task.codes), device=task.codes.device)
    scores = _fit(
        task.features.float(),
        task.codes,
        ones,
        task.test.float(),
        len(task.classes),
        hidden=0,
        epochs=epochs,
        rate=rate,
        decay=0.0,
        batch_size=batch_size,
        seed=seed,
    )
    return task.reading(scores)


def _fit(
    x: Tensor,
    codes: Tensor,
    weights: Tensor,
    test: Tensor,
    classes: int,
    *,
    hidden: int,
    epochs: int,
    rate: float,
    decay: float,
    batch_size: int,
    seed: int,
) -> Tensor:
    """Scores of ``test`` after training; with no hidden units a linear head."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [x.shape[1], *([hidden] if hidden else []), classes]
    layers = []
    for width, out in zip(sizes, sizes[1:], strict=False):
        bound = width**-0.5
        draw = partial(torch.rand, generator=generator)
        layers.append(
            (draw(out, width).sub(0.5).mul(2 * bound).to(x.device), draw(out).sub(0.5).mul(2 * bound).to(x.device))
        )
    parameters = [tensor.requires_grad_() for layer in layers for tensor in layer]

    def scores(rows: Tensor) -> Tensor:
        for number, (weight, bias) in enumerate(layers):
            rows = (rows if number == 0 else rows.relu()) @ weight.T + bias
        return rows

    with torch.enable_grad():
        optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
        for _ in range(epochs):
            for batch in torch.randperm(len(x), generator=generator).to(x.device).split(batch_size):
                told = scores(x[batch]).log_softmax(1).gather(1, codes[batch, None]).squeeze(1)
                loss = -(weights[batch] * told).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    with torch.no_grad():
        return scores(test)


def _plus(square: Tensor, penalty: Tensor) -> Tensor:
    return square + penalty * torch.eye(len(square), dtype=square.dtype, device=square.device)


def _task(features: Array, labels: Labels, test_features: Array, test_labels: Labels) -> _Task:
    x, test = matrix(features, "features"), matrix(test_features, "test_features")
    if x.shape[1] != test.shape[1]:
        raise DataError(f"Expected features of one network, got {x.shape[1]} and {test.shape[1]} features a sample.")
    own, truth = label_list(labels, "labels", len(x)), label_list(test_labels, "test_labels", len(test))
    classes = class_order(own)
    if len(classes) < 2:
        raise DataError(f"Expected at least 2 classes to tell apart, got {classes}.")
    unknown = [label for label in class_order(truth) if label not in classes]
    if unknown:
        raise DataError(f"Expected test labels that the training samples have, got {unknown}; there are {classes}.")
    if bool((x == x[0]).all()):
        raise DataError("Expected features that differ between samples, got one row repeated.")
    place = {label: code for code, label in enumerate(classes)}
    return _Task(x, torch.tensor([place[label] for label in own], device=x.device), test.to(x.device), truth, classes)
