"""Ten memories in two small networks that read handwritten digits: what ``lashley demo`` runs.

The data are the 1797 scanned digits that come with scikit-learn (8 x 8 pixels). An MLP without biases, as in
the paper, and a small convolutional network with BatchNorm are trained for a second or two each; one recording
per network gives the engrams of all ten digits, and everything after that is arithmetic on weights.

Accuracies are shares in [0, 1] on images that were neither trained on nor recorded; a fall is a difference of two
of them. Matrices named by a pair of digits have the edited digit in the row and the shown digit in the column.
"""

from __future__ import annotations

import copy
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import lashley
from lashley.geometry import overlap
from lashley.provenance import command, environment

__all__ = ["run"]

DIGITS = tuple(range(10))
ALPHA = 1.0
SHARPENED = lashley.Projection(sharpness=2.0, threshold=0.5)
SUBSET = (0, 2, 4, 6, 8)
CUTS = (lashley.Cut(), lashley.Cut.paper(), lashley.Cut.notebook())  # the engrams here use the first
TEST_SHARE = 0.3
BATCH = 64


@dataclass(frozen=True)
class Network:
    """An architecture, what to call it, and how it is trained (AdamW, one-cycle schedule)."""

    key: str
    name: str
    shape: str
    build: Callable[[], nn.Sequential]
    epochs: int
    quick_epochs: int
    image: tuple[int, ...]  # the shape of one input
    learning_rate: float = 4e-3
    weight_decay: float = 1e-4


def mlp() -> nn.Sequential:
    """64-128-64-10, ReLU, no biases: the paper's kind of network."""
    return nn.Sequential(
        OrderedDict(
            hidden1=nn.Linear(64, 128, bias=False),
            relu1=nn.ReLU(),
            hidden2=nn.Linear(128, 64, bias=False),
            relu2=nn.ReLU(),
            readout=nn.Linear(64, 10, bias=False),
        )
    )


def convnet() -> nn.Sequential:
    """Three 3 x 3 convolutions without bias, each with BatchNorm and ReLU; mean over positions; a linear readout."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 16, 3, padding=1, bias=False),
            norm1=nn.BatchNorm2d(16),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(16, 32, 3, padding=1, bias=False),
            norm2=nn.BatchNorm2d(32),
            relu2=nn.ReLU(),
            pool=nn.MaxPool2d(2),
            conv3=nn.Conv2d(32, 64, 3, padding=1, bias=False),
            norm3=nn.BatchNorm2d(64),
            relu3=nn.ReLU(),
            mean=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            readout=nn.Linear(64, 10),
        )
    )


NETWORKS = (
    Network("mlp", "MLP", "fully connected, 64-128-64-10, ReLU, no biases", mlp, 40, 12, (64,)),
    Network(
        "convnet", "conv net",
        "three 3 × 3 convolutions (16, 32, 64 channels), each with BatchNorm and ReLU; a linear readout with a bias",
        convnet, 12, 6, (1, 8, 8),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Digits:
    """Images in [0, 1] and labels, split once. ``train`` is trained on and recorded, ``test`` only scored."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    def shaped(self, image: tuple[int, ...]) -> Digits:
        return Digits(
            self.train_images.reshape(-1, *image), self.train_labels,
            self.test_images.reshape(-1, *image), self.test_labels,
        )  # fmt: skip

    def without(self, digits: Sequence[int]) -> Digits:
        """The same test split; the training split without some digits."""
        keep = ~torch.isin(self.train_labels, torch.tensor(digits))
        return Digits(self.train_images[keep], self.train_labels[keep], self.test_images, self.test_labels)

    def batches(self) -> list[tuple[Tensor, Tensor]]:
        """The training split in order, for recording and for BatchNorm statistics."""
        return list(zip(self.train_images.split(256), self.train_labels.split(256), strict=True))


@dataclass
class Clock:
    """Seconds per step, in the order in which steps were first timed."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[step] = self.seconds.get(step, 0.0) + time.perf_counter() - start


def run(seed: int = 0, quick: bool = False, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """The whole study as one plain dictionary.

    Args:
        seed: of the split, the initial weights and the order of batches.
        quick: train for fewer epochs, fewer strengths, no networks retrained without a digit.
        say: called with one line of text as each step ends.
    """
    start = time.perf_counter()
    data = load(seed)
    with _one_thread(), torch.random.fork_rng(devices=[]):  # the caller's random numbers go on undisturbed
        networks = [_study(network, data.shaped(network.image), seed, quick, say) for network in NETWORKS]
        made_by = environment()
    return {
        "study": "digits",
        "format": 1,
        "provenance": {"command": command(), "seed": seed, **made_by},
        "settings": {
            "quick": quick,
            "alpha": ALPHA,
            "alphas": list(_alphas(quick)),
            "paper": _described(lashley.Projection()),
            "sharpened": _described(SHARPENED),
            "subset": list(SUBSET),
            "batch": BATCH,
        },
        "data": {
            "name": "scikit-learn, load_digits",
            "train": len(data.train_labels),
            "test": len(data.test_labels),
            "test_per_digit": torch.bincount(data.test_labels, minlength=10).tolist(),
            "samples": [_pixels(data.train_images[data.train_labels == digit][:6]) for digit in DIGITS],
        },
        "networks": networks,
        "seconds": round(time.perf_counter() - start, 2),
    }


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in one order, whatever the machine; products this small gain nothing from a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _described(estimator: lashley.Projection) -> dict[str, Any]:
    return {"sharpness": estimator.sharpness, "threshold": estimator.threshold, "cut": str(estimator.cut)}


def load(seed: int) -> Digits:
    """scikit-learn's digits, 70 % to train and record, 30 % to score, every digit split alike."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    train, test = train_test_split(np.arange(len(labels)), test_size=TEST_SHARE, stratify=labels, random_state=seed)
    pixels, answers = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)
    return Digits(pixels[train], answers[train], pixels[test], answers[test])


def _study(network: Network, data: Digits, seed: int, quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    clock = Clock()
    epochs = network.quick_epochs if quick else network.epochs
    with clock("training"):
        model = train(network, data, epochs, seed)
    before = per_digit(model, data)
    say(f"{network.name}: trained in {clock.seconds['training']:.1f} s, {np.mean(before):.1%} of the test images right")

    with clock("recording"):
        recording = lashley.record(
            model, data.batches(), concept_of=lambda batch: batch[1], concept_names=[str(d) for d in DIGITS],
            dtype=torch.float64, progress=False,
        )  # fmt: skip
    with clock("engrams"):
        paper = [recording.engram(model, str(digit)) for digit in DIGITS]
    sharpened = [recording.engram(model, str(digit), estimator=SHARPENED) for digit in DIGITS]
    say(
        f"{network.name}: recorded in {clock.seconds['recording']:.2f} s, "
        f"ten engrams in {clock.seconds['engrams']:.2f} s"
    )

    with clock("edits"):
        edits: dict[str, dict[str, Any]] = {
            "paper": _ablations(model, paper, data, before),
            "sharpened": _ablations(model, sharpened, data, before),
        }
        if _has_batchnorm(model):
            edits["paper+batchnorm"] = _ablations(model, paper, data, before, recalibrate=True)
            edits["sharpened+batchnorm"] = _ablations(model, sharpened, data, before, recalibrate=True)
        edits["mask"] = _masks(model, data, before)
    summary = edits["paper"]["summary"]
    say(
        f"{network.name}: ablated digit {summary['target_mean']:.1%} right (mean of ten), "
        f"others fall {100 * summary['others_fall']:.1f} points"
    )
    if not quick:
        with clock("retraining"):
            edits["retrained"] = _retrained(network, data, epochs, seed, before)
        say(f"{network.name}: retrained ten times without a digit in {clock.seconds['retraining']:.1f} s")

    with clock("sweep"):
        sweep = {
            "paper": _sweep(model, paper, data, quick),
            "sharpened": _sweep(model, sharpened, data, quick),
        }
    restored = _restored(model, paper)
    result = {
        "key": network.key,
        "name": network.name,
        "shape": network.shape,
        "parameters": sum(p.numel() for p in model.parameters()),
        "training": {
            "epochs": epochs, "batch": BATCH, "learning_rate": network.learning_rate,
            "weight_decay": network.weight_decay,
        },
        "accuracy": {
            "train": accuracy(model, data.train_images, data.train_labels),
            "test": accuracy(model, data.test_images, data.test_labels),
            "per_digit": before,
        },
        "features": {"probe": _probe(model, data)},
        "layers": _layers(recording),
        "edits": edits,
        "answers": _answers(model, paper, data),
        "examples": _examples(model, paper, data),
        "injection": _injections(model, paper, data),
        "sweep": sweep,
        "overlap": _overlap(recording, model, paper),
        "responses": {
            "paper": _responses(recording, model, paper),
            "sharpened": _responses(recording, model, sharpened),
        },
        "norms": _norms(recording, model, paper),
        "subset": _subset(recording, model, data, before),
        "restored": restored,
    }  # fmt: skip
    say(f"{network.name}: all ten put back, weights {'identical' if restored['identical'] else 'DIFFERENT'}")
    return _rounded({**result, "seconds": clock.seconds})


def train(network: Network, data: Digits, epochs: int, seed: int) -> nn.Sequential:
    """A network trained on the training split, in evaluation mode."""
    torch.manual_seed(seed)
    model = network.build()
    count = len(data.train_labels)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=network.learning_rate, weight_decay=network.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, network.learning_rate, total_steps=epochs * -(-count // BATCH)
    )
    for _ in range(epochs):
        for chosen in torch.randperm(count).split(BATCH):
            loss = nn.functional.cross_entropy(model(data.train_images[chosen]), data.train_labels[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def scores(model: nn.Module, images: Tensor) -> Tensor:
    """Logits ``[N, 10]``."""
    return model(images)


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    return (scores(model, images).argmax(1) == labels).float().mean().item()


def per_digit(model: nn.Module, data: Digits) -> list[float]:
    """Share of each digit's test images that are read correctly."""
    return _shares(scores(model, data.test_images).argmax(1), data.test_labels)


def _shares(answers: Tensor, labels: Tensor) -> list[float]:
    return [(answers[labels == digit] == digit).float().mean().item() for digit in DIGITS]


def _ablations(
    model: nn.Sequential, engrams: Sequence[lashley.Engram], data: Digits, before: Sequence[float],
    recalibrate: bool = False,
) -> dict[str, Any]:  # fmt: skip
    matrix, probe = [], []
    for digit, engram in zip(DIGITS, engrams, strict=True):
        edited = lashley.ablate(model, engram, ALPHA)
        if recalibrate:
            lashley.recalibrate_batchnorm_(edited, data.without([digit]).batches())
        matrix.append(per_digit(edited, data))
        probe.append(_probe(edited, data)[digit])
    return {"accuracy": matrix, "probe": probe, "summary": _summary(before, matrix)}


def _masks(model: nn.Sequential, data: Digits, before: Sequence[float]) -> dict[str, Any]:
    """The trivial rival: the digit is never answered; weights and features stay as they are."""
    matrix = []
    for digit in DIGITS:
        logits = scores(model, data.test_images).clone()
        logits[:, digit] = -torch.inf
        matrix.append(_shares(logits.argmax(1), data.test_labels))
    return {"accuracy": matrix, "probe": _probe(model, data), "summary": _summary(before, matrix)}


def _retrained(network: Network, data: Digits, epochs: int, seed: int, before: Sequence[float]) -> dict[str, Any]:
    """The honest reference: networks of the same recipe that never saw the digit."""
    matrix, probe, answers = [], [], []
    for digit in DIGITS:
        model = train(network, data.without([digit]), epochs, seed)
        matrix.append(per_digit(model, data))
        probe.append(_probe(model, data)[digit])
        answers.append(_named(model, data, digit))
    return {"accuracy": matrix, "probe": probe, "answers": answers, "summary": _summary(before, matrix)}


def _named(model: nn.Module, data: Digits, digit: int) -> list[float]:
    """What the digit's test images are called: the share of each answer."""
    answers = scores(model, data.test_images[data.test_labels == digit]).argmax(1)
    return (torch.bincount(answers, minlength=len(DIGITS)) / len(answers)).tolist()


def _summary(before: Sequence[float], matrix: Sequence[Sequence[float]]) -> dict[str, Any]:
    after = np.array(matrix)
    fall = np.array(before) - after
    others = np.where(np.eye(len(after), dtype=bool), -np.inf, fall)
    worst = np.unravel_index(int(others.argmax()), others.shape)
    return {
        "target_mean": float(after.diagonal().mean()),
        "target_max": float(after.diagonal().max()),
        "others_fall": float(others[np.isfinite(others)].mean()),
        "worst_fall": float(others.max()),
        "worst_pair": [int(worst[0]), int(worst[1])],  # the ablated digit, the digit that fell
    }


def _probe(model: nn.Module, data: Digits, ridge: float = 1e-3) -> list[float]:
    """Recall per digit of a linear read-out fitted anew to the model's last hidden features.

    Least squares on one-hot targets with the constant feature, all ten digits of the training split, and a ridge
    of ``ridge`` times the mean squared feature; scored on the test split. It says what is still in the features
    whatever the network's own read-out answers.
    """
    body = nn.Sequential(*list(model.children())[:-1])
    features = [
        nn.functional.pad(scores(body, images).double(), (0, 1), value=1.0)
        for images in (data.train_images, data.test_images)
    ]
    gram = features[0].T @ features[0]
    gram += ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    readout = torch.linalg.solve(gram, features[0].T @ nn.functional.one_hot(data.train_labels, 10).double())
    return _shares((features[1] @ readout).argmax(1), data.test_labels)


def _answers(model: nn.Module, engrams: Sequence[lashley.Engram], data: Digits) -> list[list[float]]:
    """What a digit's test images are called once it is ablated."""
    table = []
    for digit, engram in zip(DIGITS, engrams, strict=True):
        with lashley.ablated(model, engram, ALPHA):
            table.append(_named(model, data, digit))
    return table


def _examples(model: nn.Module, engrams: Sequence[lashley.Engram], data: Digits) -> list[dict[str, Any]]:
    """For every digit the first test image that was read correctly and no longer is, if there is one."""
    original = scores(model, data.test_images).argmax(1)
    examples = []
    for digit, engram in zip(DIGITS, engrams, strict=True):
        with lashley.ablated(model, engram, ALPHA):
            answers = scores(model, data.test_images).argmax(1)
        forgotten = (data.test_labels == digit) & (original == digit) & (answers != digit)
        for index in forgotten.nonzero().flatten()[:1].tolist():
            pixels = _pixels(data.test_images[index])[0]
            examples.append({"digit": digit, "pixels": pixels, "before": digit, "after": int(answers[index])})
    return examples


def _injections(model: nn.Sequential, engrams: Sequence[lashley.Engram], data: Digits) -> dict[str, Any]:
    """Each engram alone in a network whose recorded layers are blank."""
    blank = copy.deepcopy(model)
    with torch.no_grad():
        for name in engrams[0]:  # an engram carries its share of the bias too, so that a blank layer has neither
            for parameter in blank.get_submodule(name).parameters():
                parameter.zero_()
    results = {"whole": _called([model] * 10, data)}
    injected = [lashley.inject(blank, engram, ALPHA) for engram in engrams]
    results["blank"] = _called(injected, data)
    if _has_batchnorm(model):
        for network in injected:
            lashley.recalibrate_batchnorm_(network, data.batches())
        results["blank+batchnorm"] = _called(injected, data)
    return results


def _called(models: Sequence[nn.Module], data: Digits) -> dict[str, Any]:
    """``called[c, j]``: the share of digit j's test images that network c calls c; and how well c's score ranks them.

    ``ranking``: the chance that an image of c scores higher on c than an image of another digit does (the area
    under the ROC curve; .5 is chance).
    """
    from sklearn.metrics import roc_auc_score

    called, false_induction, ranking = [], [], []
    for digit, model in zip(DIGITS, models, strict=True):
        logits = scores(model, data.test_images)
        says, mine = logits.argmax(1) == digit, data.test_labels == digit
        called.append([says[data.test_labels == other].float().mean().item() for other in DIGITS])
        false_induction.append(says[~mine].float().mean().item())
        ranking.append(float(roc_auc_score(mine.numpy(), logits[:, digit].numpy())))
    return {
        "called": called,
        "accuracy": [called[digit][digit] for digit in DIGITS],
        "false_induction": false_induction,
        "ranking": ranking,
    }


def _alphas(quick: bool) -> tuple[float, ...]:
    return tuple(np.linspace(0, 2, 5 if quick else 11).round(2).tolist())


def _sweep(model: nn.Sequential, engrams: Sequence[lashley.Engram], data: Digits, quick: bool) -> dict[str, Any]:
    """Accuracy ``[alpha, digit]`` of the ablated digit and of the other nine (their mean)."""
    table = np.array(
        [
            [accuracies for _, accuracies in lashley.sweep(model, engram, _alphas(quick), lambda m: per_digit(m, data))]
            for engram in engrams
        ]
    )  # [ablated, alpha, shown]
    target = table[list(DIGITS), :, list(DIGITS)].T
    others = (table.sum(2).T - target) / (len(DIGITS) - 1)
    return {"target": target.tolist(), "others": others.tolist()}


def _overlap(recording: lashley.Recording, model: nn.Sequential, engrams: Sequence[lashley.Engram]) -> dict[str, Any]:
    """Cosines between engrams, all layers end to end; ``rest``: with the engram of the other nine digits together."""
    names = [str(digit) for digit in DIGITS]
    rests = [recording.engram(model, [other for other in names if other != name]) for name in names]
    cosine, ten = overlap([_tensors(engram) for engram in [*engrams, *rests]]), len(DIGITS)
    return {"cosine": cosine[:ten, :ten].tolist(), "rest": cosine[:ten, ten:].diagonal().tolist()}


def _tensors(engram: lashley.Engram) -> list[Tensor]:
    return [part for delta in engram.values() for part in (delta.weight, delta.bias) if part is not None]


def _responses(
    recording: lashley.Recording, model: nn.Sequential, engrams: Sequence[lashley.Engram]
) -> dict[str, dict[str, list[float]]]:
    """How much of a layer's response the engram carries: ``||E_c X|| / ||W X||`` per layer and digit.

    ``own``: X are the rows of digit c itself. ``others``: of the other nine. Both from the recorded moments, because
    ``||E X||^2 = tr(E S E^T)``.
    """
    weights = model.state_dict()
    table: dict[str, dict[str, list[float]]] = {}
    for name, layer in recording.layers.items():
        weight = _augmented(layer, weights[f"{name}.weight"], weights.get(f"{name}.bias"))
        squares = [_square(recording, str(digit), name) for digit in DIGITS]
        total = torch.stack(squares).sum(0)
        edits = [_augmented(layer, engram[name].weight, engram[name].bias) for engram in engrams]
        pairs = list(zip(edits, squares, strict=True))
        table[name] = {
            "own": [_size(edit, own) / _size(weight, own) for edit, own in pairs],
            "others": [_size(edit, total - own) / _size(weight, total - own) for edit, own in pairs],
        }
    return table


def _augmented(layer: Any, weight: Tensor, bias: Tensor | None) -> Tensor:
    matrix = layer.matrix(weight.detach().double())[0]
    return matrix if bias is None else torch.cat([matrix, bias.detach().double()[:, None]], 1)


def _square(recording: lashley.Recording, concept: str, name: str) -> Tensor:
    moment = recording.moment(concept, name)
    return moment.augmented if recording.layers[name].bias else moment.square


def _size(matrix: Tensor, square: Tensor) -> float:
    """``||M X||_F`` from ``M`` and ``X^T X``."""
    return (matrix @ square * matrix).sum().clamp(min=0).sqrt().item()


def _norms(recording: lashley.Recording, model: nn.Sequential, engrams: Sequence[lashley.Engram]) -> dict[str, Any]:
    """``||E|| / ||W||`` per layer and digit; and under several cuts its mean over digits and the rank the cut keeps."""
    ratios = [engram.weight_norms() for engram in engrams]
    tables = [recording.sensitivity(model, str(digit), CUTS) for digit in DIGITS]
    sensitivity = [
        {
            **{key: rows[0][key] for key in ("layer", "cut", "kept", "dim")},
            "norm": float(np.mean([row["norm"] for row in rows])),
        }
        for rows in zip(*tables, strict=True)
    ]
    return {
        "cut": str(CUTS[0]),
        "ratio": {name: [ratio[name] for ratio in ratios] for name in engrams[0]},
        "sensitivity": sensitivity,
    }


def _subset(
    recording: lashley.Recording, model: nn.Sequential, data: Digits, before: Sequence[float]
) -> dict[str, Any]:
    """Several digits at once, from the same recording."""
    names = [str(digit) for digit in SUBSET]
    rows = {"none": list(before)}
    for key, estimator in (("paper", lashley.Projection()), ("sharpened", SHARPENED)):
        edited = lashley.ablate(model, recording.engram(model, names, estimator=estimator), ALPHA)
        rows[key] = per_digit(edited, data)
        if _has_batchnorm(model):
            lashley.recalibrate_batchnorm_(edited, data.without(SUBSET).batches())
            rows[f"{key}+batchnorm"] = per_digit(edited, data)
    return {"digits": list(SUBSET), "accuracy": rows}


def _restored(model: nn.Sequential, engrams: Sequence[lashley.Engram]) -> dict[str, Any]:
    """Every engram out and back, the bytes of all tensors hashed before, in between and after."""
    before, out, back = checksum(model), [], []
    for engram in engrams:
        with lashley.ablated(model, engram, ALPHA):
            out.append(checksum(model))
        back.append(checksum(model))
    return {"sha256": before, "while_out": out, "back": back, "identical": set(back) == {before}}


def checksum(model: nn.Module) -> str:
    """sha256 over the names and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _layers(recording: lashley.Recording) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "type": layer.type,
            "shape": list(layer.shape),
            "columns": layer.dim + layer.bias,
            "rows": recording.moment(None, name).count,
        }
        for name, layer in recording.layers.items()
    ]


def _has_batchnorm(model: nn.Module) -> bool:
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def _pixels(images: Tensor) -> list[Any]:
    """Images in whatever shape a network wants them, as rows of pixels ``[N, 8, 8]``."""
    return images.reshape(-1, 8, 8).tolist()


def _rounded(value: Any) -> Any:
    """Floats to six digits after the point: more would only be noise in a file that people read."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return round(value, 6) if isinstance(value, float) else value
