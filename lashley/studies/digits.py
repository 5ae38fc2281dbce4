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
from lashley.studies.rounding import rounded
from lashley.studies.threads import threads

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


@dataclass(frozen=True)
class Subject:
    """A trained network with everything that was learned about it, and the seconds that took."""

    model: nn.Sequential
    data: Digits
    accuracy: list[float]  # per digit, before any edit
    recording: lashley.Recording
    paper: list[lashley.Engram]
    sharpened: list[lashley.Engram]
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def has_batchnorm(self) -> bool:
        return any(isinstance(module, nn.BatchNorm2d) for module in self.model.modules())

    def pooled(self, digits: Sequence[int], estimator: lashley.Projection | None = None) -> lashley.Engram:
        """The engram of several digits as one concept."""
        return self.recording.engram(self.model, [str(digit) for digit in digits], estimator=estimator)


def run(seed: int = 0, quick: bool = False, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """The whole study as one plain dictionary.

    Args:
        seed: of the split, the initial weights and the order of batches.
        quick: train for fewer epochs, fewer strengths, no networks retrained without a digit.
        say: called with one line of text as each step ends.
    """
    start = time.perf_counter()
    data = load(seed)
    with threads(1), torch.random.fork_rng(devices=[]):  # the caller's random numbers go on undisturbed
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
            "samples": [_pixels(data.train_images[data.train_labels == digit][:2]) for digit in DIGITS],
        },
        "networks": networks,
        "seconds": round(time.perf_counter() - start, 2),
    }


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
    epochs = network.quick_epochs if quick else network.epochs
    subject = _find(network, data, epochs, seed)
    seconds = subject.seconds
    say(
        f"{network.name}: trained in {seconds['training']:.1f} s, {np.mean(subject.accuracy):.1%} of the test images "
        f"right; recorded in {seconds['recording']:.2f} s, ten engrams in {seconds['engrams']:.2f} s"
    )
    with _timed(seconds, "edits"):
        edits = _edits(subject)
    summary = edits["paper"]["summary"]
    say(
        f"{network.name}: ablated digit {summary['target_mean']:.1%} right (mean of ten), the others fall by "
        f"{100 * summary['others_fall']:.1f} points"
    )
    if not quick:
        with _timed(seconds, "retraining"):
            edits["retrained"] = _retrained(network, subject, epochs, seed)
        say(f"{network.name}: retrained ten times without a digit in {seconds['retraining']:.1f} s")
    with _timed(seconds, "sweep"):
        sweep = {
            "paper": _sweep(subject, subject.paper, quick),
            "sharpened": _sweep(subject, subject.sharpened, quick),
        }
    restored = _restored(subject)
    say(f"{network.name}: all ten put back, weights {'identical' if restored['identical'] else 'DIFFERENT'}")
    found = {
        "key": network.key,
        "name": network.name,
        "shape": network.shape,
        "parameters": sum(p.numel() for p in subject.model.parameters()),
        "training": {
            "epochs": epochs,
            "batch": BATCH,
            "learning_rate": network.learning_rate,
            "weight_decay": network.weight_decay,
        },
        "accuracy": {"per_digit": subject.accuracy},
        "features": {"probe": probe(subject.model, data)},
        "layers": _layers(subject),
        "edits": edits,
        "answers": _answers(subject),
        "examples": _examples(subject),
        "injection": _injections(subject),
        "sweep": sweep,
        "overlap": _overlap(subject),
        "norms": _norms(subject),
        "responses": {
            "paper": _responses(subject, subject.paper),
            "sharpened": _responses(subject, subject.sharpened),
        },
        "subset": _subset(subject),
        "restored": restored,
        "seconds": seconds,
    }
    return rounded(found)


def _find(network: Network, data: Digits, epochs: int, seed: int) -> Subject:
    """Train, record once, and solve for the ten engrams."""
    seconds: dict[str, float] = {}
    with _timed(seconds, "training"):
        model = train(network, data, epochs, seed)
    with _timed(seconds, "recording"):
        recording = lashley.record(
            model,
            data.batches(),
            concept_of=lambda batch: batch[1],
            concept_names=[str(digit) for digit in DIGITS],
            dtype=torch.float64,
            progress=False,
        )
    with _timed(seconds, "engrams"):
        paper = [recording.engram(model, str(digit)) for digit in DIGITS]
    sharpened = [recording.engram(model, str(digit), estimator=SHARPENED) for digit in DIGITS]
    return Subject(model, data, per_digit(model, data), recording, paper, sharpened, seconds)


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - start


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


def per_digit(model: nn.Module, data: Digits) -> list[float]:
    """Share of each digit's test images that are read correctly."""
    return _shares(scores(model, data.test_images).argmax(1), data.test_labels)


def _shares(answers: Tensor, labels: Tensor) -> list[float]:
    return [(answers[labels == digit] == digit).float().mean().item() for digit in DIGITS]


def _edits(subject: Subject) -> dict[str, dict[str, Any]]:
    """Every way of taking a digit out, ten times each."""
    edits = {"paper": _ablations(subject, subject.paper), "sharpened": _ablations(subject, subject.sharpened)}
    if subject.has_batchnorm:
        edits["paper+batchnorm"] = _ablations(subject, subject.paper, recalibrate=True)
        edits["sharpened+batchnorm"] = _ablations(subject, subject.sharpened, recalibrate=True)
    return {**edits, "mask": _masks(subject)}


def _ablations(subject: Subject, engrams: Sequence[lashley.Engram], recalibrate: bool = False) -> dict[str, Any]:
    matrix, recall = [], []
    for digit, engram in zip(DIGITS, engrams, strict=True):
        edited = lashley.ablate(subject.model, engram, ALPHA)
        if recalibrate:
            lashley.recalibrate_batchnorm_(edited, subject.data.without([digit]).batches())
        matrix.append(per_digit(edited, subject.data))
        recall.append(probe(edited, subject.data)[digit])
    return {"accuracy": matrix, "probe": recall, "summary": summarise(subject.accuracy, matrix)}


def _masks(subject: Subject) -> dict[str, Any]:
    """The trivial rival: the digit is never answered; weights and features stay as they are."""
    data, matrix = subject.data, []
    for digit in DIGITS:
        logits = scores(subject.model, data.test_images).clone()
        logits[:, digit] = -torch.inf
        matrix.append(_shares(logits.argmax(1), data.test_labels))
    return {"accuracy": matrix, "probe": probe(subject.model, data), "summary": summarise(subject.accuracy, matrix)}


def _retrained(network: Network, subject: Subject, epochs: int, seed: int) -> dict[str, Any]:
    """The honest reference: networks of the same recipe that never saw the digit."""
    data, matrix, recall, answers = subject.data, [], [], []
    for digit in DIGITS:
        model = train(network, data.without([digit]), epochs, seed)
        matrix.append(per_digit(model, data))
        recall.append(probe(model, data)[digit])
        answers.append(_named(model, data, digit))
    summary = summarise(subject.accuracy, matrix)
    return {"accuracy": matrix, "probe": recall, "answers": answers, "summary": summary}


def _named(model: nn.Module, data: Digits, digit: int) -> list[float]:
    """What the digit's test images are called: the share of each answer."""
    answers = scores(model, data.test_images[data.test_labels == digit]).argmax(1)
    return (torch.bincount(answers, minlength=len(DIGITS)) / len(answers)).tolist()


def summarise(before: Sequence[float], matrix: Sequence[Sequence[float]]) -> dict[str, Any]:
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


def probe(model: nn.Module, data: Digits, ridge: float = 1e-3) -> list[float]:
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


def _answers(subject: Subject) -> list[list[float]]:
    """What a digit's test images are called once it is ablated."""
    table = []
    for digit, engram in zip(DIGITS, subject.paper, strict=True):
        with lashley.ablated(subject.model, engram, ALPHA):
            table.append(_named(subject.model, subject.data, digit))
    return table


def _examples(subject: Subject) -> list[dict[str, Any]]:
    """For every digit the first test image that was read correctly and no longer is, if there is one."""
    model, images, labels = subject.model, subject.data.test_images, subject.data.test_labels
    original = scores(model, images).argmax(1)
    examples = []
    for digit, engram in zip(DIGITS, subject.paper, strict=True):
        with lashley.ablated(model, engram, ALPHA):
            answers = scores(model, images).argmax(1)
        forgotten = (labels == digit) & (original == digit) & (answers != digit)
        for index in forgotten.nonzero().flatten()[:1].tolist():
            pixels = _pixels(images[index])[0]
            examples.append({"digit": digit, "pixels": pixels, "before": digit, "after": int(answers[index])})
    return examples


def _injections(subject: Subject) -> dict[str, Any]:
    """Each engram alone in a network whose recorded layers are blank."""
    blank = copy.deepcopy(subject.model)
    with torch.no_grad():
        for name in subject.recording.layers:  # an engram carries its share of the bias too: a blank layer has neither
            for parameter in blank.get_submodule(name).parameters():
                parameter.zero_()
    injected = [lashley.inject(blank, engram, ALPHA) for engram in subject.paper]
    found = {
        "whole": _called([subject.model] * len(DIGITS), subject.data),
        "blank": _called(injected, subject.data),
    }
    if subject.has_batchnorm:
        for model in injected:
            lashley.recalibrate_batchnorm_(model, subject.data.batches())
        found["blank+batchnorm"] = _called(injected, subject.data)
    return found


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


def _sweep(subject: Subject, engrams: Sequence[lashley.Engram], quick: bool) -> dict[str, Any]:
    """Accuracy ``[alpha, digit]`` of the ablated digit and of the other nine (their mean)."""

    def score(model: nn.Module) -> list[float]:
        return per_digit(model, subject.data)

    swept = [lashley.sweep(subject.model, engram, _alphas(quick), score) for engram in engrams]
    table = np.array([[accuracies for _, accuracies in row] for row in swept])  # [ablated, alpha, shown]
    target = table[list(DIGITS), :, list(DIGITS)].T
    others = (table.sum(2).T - target) / (len(DIGITS) - 1)
    return {"target": target.tolist(), "others": others.tolist()}


def _overlap(subject: Subject) -> dict[str, Any]:
    """Cosines between engrams, all layers end to end; ``rest``: with the engram of the other nine digits together."""
    rests = [subject.pooled([other for other in DIGITS if other != digit]) for digit in DIGITS]
    cosine, ten = overlap([_tensors(engram) for engram in [*subject.paper, *rests]]), len(DIGITS)
    return {"cosine": cosine[:ten, :ten].tolist(), "rest": cosine[:ten, ten:].diagonal().tolist()}


def _tensors(engram: lashley.Engram) -> list[Tensor]:
    return [part for delta in engram.values() for part in (delta.weight, delta.bias) if part is not None]


def _responses(subject: Subject, engrams: Sequence[lashley.Engram]) -> dict[str, dict[str, list[float]]]:
    """How large the engram's response is beside the layer's: ``||E_c X|| / ||W X||`` per layer and digit.

    ``own``: X are the rows of digit c itself. ``others``: of the other nine. Both from the recorded moments, because
    ``||E X||^2 = tr(E S E^T)``.
    """
    weights = subject.model.state_dict()
    table: dict[str, dict[str, list[float]]] = {}
    for name, layer in subject.recording.layers.items():
        weight = _augmented(layer, weights[f"{name}.weight"], weights.get(f"{name}.bias"))
        squares = [_square(subject.recording, str(digit), name) for digit in DIGITS]
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


def _norms(subject: Subject) -> dict[str, Any]:
    """``||E|| / ||W||`` per layer and digit; and under several cuts its mean over digits and the rank the cut keeps."""
    ratios = [engram.weight_norms() for engram in subject.paper]
    tables = [subject.recording.sensitivity(subject.model, str(digit), CUTS) for digit in DIGITS]
    sensitivity = [
        {
            **{key: rows[0][key] for key in ("layer", "cut", "kept", "dim")},
            "norm": float(np.mean([row["norm"] for row in rows])),
        }
        for rows in zip(*tables, strict=True)
    ]
    return {
        "cut": str(CUTS[0]),
        "ratio": {name: [ratio[name] for ratio in ratios] for name in subject.recording.layers},
        "sensitivity": sensitivity,
    }


def _subset(subject: Subject) -> dict[str, Any]:
    """Several digits at once, from the same recording."""
    rows = {"none": subject.accuracy}
    for key, estimator in (("paper", None), ("sharpened", SHARPENED)):
        edited = lashley.ablate(subject.model, subject.pooled(SUBSET, estimator), ALPHA)
        rows[key] = per_digit(edited, subject.data)
        if subject.has_batchnorm:
            lashley.recalibrate_batchnorm_(edited, subject.data.without(SUBSET).batches())
            rows[f"{key}+batchnorm"] = per_digit(edited, subject.data)
    return {"digits": list(SUBSET), "accuracy": rows}


def _restored(subject: Subject) -> dict[str, Any]:
    """Every engram out and back, the bytes of all tensors hashed before, in between and after."""
    before, out, back = checksum(subject.model), [], []
    for engram in subject.paper:
        with lashley.ablated(subject.model, engram, ALPHA):
            out.append(checksum(subject.model))
        back.append(checksum(subject.model))
    return {"sha256": before, "while_out": out, "back": back, "identical": set(back) == {before}}


def checksum(model: nn.Module) -> str:
    """sha256 over the names and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _layers(subject: Subject) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "type": layer.type,
            "shape": list(layer.shape),
            "columns": layer.dim + layer.bias,
            "rows": subject.recording.moment(None, name).count,
        }
        for name, layer in subject.recording.layers.items()
    ]


def _pixels(images: Tensor) -> list[Any]:
    """Images in whatever shape a network wants them, as rows of pixels ``[N, 8, 8]``."""
    return images.reshape(-1, 8, 8).tolist()
