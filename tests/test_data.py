"""Data sets from names: what each source becomes, and what each refuses."""

from __future__ import annotations

import gzip
import io
import os
import struct
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image

from lashley import data
from lashley.data import mnist as mnist_module
from lashley.data.idx import read_idx
from lashley.data.mnist import mnist
from lashley.errors import DataError, SelectionError

# --- batches ----------------------------------------------------------------------------------------------------------


def small(**options) -> data.LabelledBatches:
    samples = torch.arange(14.0).view(7, 2)
    return data.LabelledBatches(samples, torch.tensor([0, 1, 2, 0, 1, 2, 0]), ("a", "b", "c"), batch_size=3, **options)


def test_batches_come_in_order_and_again():
    batches = small()
    first, second = list(batches), list(batches)
    assert len(batches) == len(first) == 3
    assert torch.equal(torch.cat([x for x, _ in first]), batches.samples)
    assert torch.equal(torch.cat([y for _, y in first]), batches.labels)
    for (x, y), (x2, y2) in zip(first, second, strict=True):
        assert torch.equal(x, x2) and torch.equal(y, y2)


def test_by_concept_splits_every_sample_once():
    batches = small()
    parts = batches.by_concept()
    assert list(parts) == ["a", "b", "c"]
    assert batches.counts == {"a": 3, "b": 2, "c": 2}
    again = {name: torch.cat(list(part)) for name, part in parts.items()}
    for k, (name, part) in enumerate(parts.items()):
        assert torch.equal(again[name], batches.samples[batches.labels == k])
        assert torch.equal(torch.cat(list(part)), again[name])
        assert len(part) == len(list(part))


def test_by_concept_leaves_out_concepts_without_samples():
    batches = data.LabelledBatches(torch.zeros(2, 1), torch.tensor([0, 2]), ("a", "b", "c"))
    assert list(batches.by_concept()) == ["a", "c"]
    assert batches.counts == {"a": 1, "b": 0, "c": 1}


def test_only_and_limit_choose_samples():
    chosen = small().only(["c", "a"])
    assert chosen.concept_names == ("c", "a")
    assert chosen.counts == {"c": 2, "a": 3}
    assert torch.equal(torch.cat(list(chosen.by_concept()["c"])), small().samples[[2, 5]])
    limited = small().limit(1)
    assert limited.counts == {"a": 1, "b": 1, "c": 1}
    assert torch.equal(torch.cat([x for x, _ in limited]), small().samples[:3])
    assert small().limit(2).only(["a"]).counts == {"a": 2}


def test_overlapping_labels():
    labels = torch.tensor([[1, 0], [1, 1], [0, 0], [0, 1]], dtype=torch.bool)
    batches = data.LabelledBatches(torch.arange(4.0).view(4, 1), labels, ("young", "smiling"))
    assert batches.overlapping and batches.counts == {"young": 2, "smiling": 2}
    assert torch.equal(next(iter(batches))[1], labels)
    assert batches.only(["smiling"]).samples[batches.only(["smiling"]).index].flatten().tolist() == [1.0, 3.0]
    assert batches.limit(1).size == 2
    with pytest.raises(DataError, match="count shared samples twice"):
        batches.by_concept()


def test_inputs_arrive_in_the_asked_type_and_ids_stay_ids():
    assert next(iter(small(dtype=torch.float64)))[0].dtype == torch.float64
    ids = data.LabelledBatches(torch.zeros(2, 3, dtype=torch.int64), torch.tensor([0, 0]), ("a",), dtype=torch.float16)
    assert next(iter(ids))[0].dtype == torch.int64


@pytest.mark.parametrize(
    ("samples", "labels", "names", "message"),
    [
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), ("a",), "got none"),
        (torch.zeros(3, 2), torch.tensor([0, 0]), ("a",), "got 2 labels for 3 samples"),
        (torch.zeros(2, 2), torch.tensor([0, 1]), ("a",), "so 0 to 0; got 0 to 1"),
        (torch.zeros(2, 2), torch.tensor([0, -1]), ("a",), "got -1 to 0"),
        (torch.zeros(2, 2), torch.tensor([0.0, 0.0]), ("a",), "whole numbers"),
        (torch.zeros(2, 2), torch.tensor([0, 1]), ("a", "a"), "'a' more than once"),
        (torch.zeros(2, 2), torch.ones(2, 3, dtype=torch.bool), ("a", "b"), "K = 2 concept names"),
    ],
)
def test_batches_refuse(samples, labels, names, message):
    with pytest.raises(DataError, match=message):
        data.LabelledBatches(samples, labels, names)


def test_batches_refuse_bad_choices():
    with pytest.raises(SelectionError, match=r"No concept is called 'aa'. Did you mean 'a'"):
        small().only(["aa"])
    with pytest.raises(DataError, match="at least 1 sample per concept"):
        small().limit(0)
    with pytest.raises(DataError, match="batch size of at least 1"):
        data.LabelledBatches(torch.zeros(1, 1), torch.tensor([0]), ("a",), batch_size=0)
    empty = data.LabelledBatches(torch.zeros(1, 1), torch.tensor([0]), ("a", "b"))
    with pytest.raises(DataError, match="No sample belongs to 'b'"):
        empty.only(["b"])


# --- prepare ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2, 5, 6), (2, 1, 5, 6)),
        ((2, 5, 6, 3), (2, 3, 5, 6)),
        ((2, 5, 6, 1), (2, 1, 5, 6)),
        ((2, 3, 5, 6), (2, 3, 5, 6)),
        ((2, 3, 5, 4), (2, 3, 5, 4)),  # channels first although the width could be a number of channels
        ((2, 7), (2, 7)),
    ],
)
def test_bytes_become_channels_first_in_zero_to_one(shape, expected):
    stored = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    inputs = data.Prepare()(stored)
    assert inputs.shape == expected and inputs.dtype == torch.float32
    assert sorted((inputs * 255).round().flatten().tolist()) == sorted(stored.flatten().tolist())


def test_channels_last_pixels_keep_their_place():
    stored = torch.arange(2 * 2 * 5 * 3, dtype=torch.uint8).view(2, 2, 5, 3)
    assert data.Prepare()(stored)[1, 2, 1, 4] * 255 == stored[1, 1, 4, 2]


def test_other_types_keep_their_shape():
    assert data.Prepare()(torch.zeros(2, 5, 6, 3, dtype=torch.float64)).shape == (2, 5, 6, 3)
    assert data.Prepare()(torch.zeros(2, 3, dtype=torch.float64)).dtype == torch.float32
    assert data.Prepare()(torch.zeros(2, 3, dtype=torch.int32)).dtype == torch.int64
    assert data.Prepare()(torch.ones(2, 3, dtype=torch.bool)).tolist() == [[1.0] * 3] * 2


def test_normalise_and_flatten():
    stored = torch.full((2, 5, 4, 3), 255, dtype=torch.uint8)
    inputs = data.Prepare(mean=(0.5, 0.0, 1.0), std=(0.5, 2.0, 1.0))(stored)
    assert inputs[0, :, 0, 0].tolist() == [1.0, 0.5, 0.0]
    assert data.Prepare(mean=(0.5,), std=(0.25,), flatten=True)(stored).shape == (2, 60)
    assert data.Prepare(mean=(1.0, 3.0), std=(1.0, 2.0))(torch.tensor([[1.0, 5.0]])).tolist() == [[0.0, 1.0]]
    assert data.Prepare(mean=(1.0,), std=(2.0,))(torch.tensor([5.0])).tolist() == [2.0]


def test_prepare_refuses():
    with pytest.raises(DataError, match="both mean and std"):
        data.Prepare(mean=(0.5,))
    with pytest.raises(DataError, match="mean has 1 numbers and std has 3"):
        data.Prepare(mean=(0.5,), std=(1.0, 1.0, 1.0))
    with pytest.raises(DataError, match="positive numbers as std"):
        data.Prepare(mean=(0.5,), std=(0.0,))
    with pytest.raises(DataError, match="each of the 1 channels"):
        data.Prepare(mean=(0.5, 0.5), std=(1.0, 1.0))(torch.zeros(2, 4, 4, dtype=torch.uint8))
    with pytest.raises(DataError, match="are ids and are not normalised"):
        data.Prepare(mean=(0.5,), std=(1.0,))(torch.zeros(2, 4, dtype=torch.int64))
    with pytest.raises(DataError, match="Expected real inputs"):
        data.Prepare()(torch.zeros(2, 4, dtype=torch.complex64))


# --- .npz and .pt -----------------------------------------------------------------------------------------------------


def npz(folder: Path, **arrays) -> Path:
    path = folder / "data.npz"
    np.savez(path, **arrays)
    return path


def test_npz_with_class_names(tmp_path):
    path = npz(
        tmp_path,
        images=np.zeros((4, 5, 6, 3), np.uint8),
        labels=np.array([[1], [0], [1], [1]], np.uint8),
        class_names=np.array(["cat", "dog", "eel"]),
    )
    batches = data.load(path, batch_size=3)
    assert batches.concept_names == ("cat", "dog", "eel")
    assert batches.counts == {"cat": 1, "dog": 3, "eel": 0}
    assert [tuple(x.shape) for x, _ in batches] == [(3, 3, 5, 6), (1, 3, 5, 6)]


def test_npz_numbers_and_text_as_labels(tmp_path):
    inputs = np.arange(6.0).reshape(3, 2)
    assert data.load(npz(tmp_path, x=inputs, y=np.array([7, 3, 7]))).concept_names == ("3", "7")
    assert data.load(npz(tmp_path, x=inputs, y=np.array([7, 3, 7]))).labels.tolist() == [1, 0, 1]
    assert data.load(npz(tmp_path, x=inputs, y=np.array(["b", "a", "b"]))).counts == {"a": 1, "b": 2}
    assert data.load(npz(tmp_path, x=inputs, y=np.array([b"b", b"a", b"b"]))).counts == {"a": 1, "b": 2}
    named = npz(tmp_path, x=inputs, y=np.array(["b", "a", "b"]), class_names=np.array(["b", "a"]))
    assert data.load(named).labels.tolist() == [0, 1, 0]
    big_endian = npz(tmp_path, x=inputs.astype(">f8"), y=np.array([0, 1, 1], ">i4"))
    assert next(iter(data.load(big_endian)))[0].tolist() == inputs.tolist()


def test_npz_zeros_and_ones_are_overlapping_concepts(tmp_path):
    batches = data.load(npz(tmp_path, x=np.zeros((2, 3)), y=np.array([[1, 1], [0, 1]])))
    assert batches.overlapping and batches.counts == {"0": 1, "1": 2}


def test_npz_keys_can_be_named(tmp_path):
    path = npz(tmp_path, x=np.zeros((2, 3)), x_train=np.ones((2, 3)), y=np.array([0, 1]), fine=np.array([1, 1]))
    with pytest.raises(DataError, match=r"Several arrays in .* could be the inputs: x, x_train. Say which"):
        data.load(path)
    batches = data.load(path, inputs_key="x_train", labels_key="fine")
    assert next(iter(batches))[0].sum() == 6 and batches.concept_names == ("1",)
    with pytest.raises(DataError, match=r"has no 'z' for the inputs; it holds x, x_train, y, fine"):
        data.load(path, inputs_key="z")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"features": np.zeros((2, 2)), "y": np.zeros(2, int)}, r"Expected the inputs in .* it holds features, y"),
        ({"x": np.zeros((2, 2))}, r"Expected the labels in .* it holds x\."),
        ({"x": np.zeros((3, 2)), "y": np.zeros(2, int)}, "got 2 labels for 3 samples"),
        ({"x": np.zeros((2, 2)), "y": np.zeros(2)}, "whole numbers or text as labels .* got float64"),
        ({"x": np.array(["a", "b"]), "y": np.zeros(2, int)}, "Expected numbers as 'x'"),
        ({"x": np.float64(1), "y": np.zeros(2, int)}, "got a single number"),
        ({"x": np.zeros((2, 2)), "y": np.array([[0, 2], [1, 1]])}, "only 0 and 1"),
        ({"x": np.zeros((2, 2)), "y": np.zeros((2, 2, 2), int)}, r"Expected labels \[N\] or \[N, K\]"),
        ({"x": np.zeros((2, 2)), "y": np.array([0, 5]), "class_names": np.array(["a", "b"])}, "so 0 to 1; got 0 to 5"),
        (
            {"x": np.zeros((1, 2)), "y": np.array(["c"]), "class_names": np.array(["a"])},
            "not among its class_names: 'c'",
        ),
        ({"x": np.array([{}, {}]), "y": np.zeros(2, int)}, "Pickled objects are never loaded"),
    ],
)
def test_npz_refuses(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message):
        data.load(npz(tmp_path, **arrays))


def test_a_broken_npz_is_refused(tmp_path):
    path = npz(tmp_path, x=np.zeros((50, 2)), y=np.zeros(50, int))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"not an intact \.npz"):
        data.load(path)
    path.write_bytes(b"not an archive")
    with pytest.raises(DataError, match="Pickled objects are never loaded"):
        data.load(path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DataError, match="a single array"):
        data.load(path)


def test_pt_as_mapping_and_as_pair(tmp_path):
    inputs, labels = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1, 0, 1])
    torch.save({"inputs": inputs, "labels": labels, "class_names": ["a", "b"]}, tmp_path / "mapping.pt")
    torch.save((inputs, labels), tmp_path / "pair.pt")
    mapping, pair = data.load(tmp_path / "mapping.pt"), data.load(tmp_path / "pair.pt")
    assert mapping.concept_names == ("a", "b") and pair.concept_names == ("0", "1")
    for batches in (mapping, pair):
        assert torch.equal(next(iter(batches))[0], inputs) and torch.equal(batches.labels, labels)
    with pytest.raises(DataError, match="without keys"):
        data.load(tmp_path / "pair.pt", inputs_key="inputs")


def test_pt_refuses(tmp_path):
    path = tmp_path / "data.pt"
    torch.save({"inputs": torch.zeros(1, 1), "labels": Path("code")}, path)
    with pytest.raises(DataError, match="cannot be read as tensors alone"):
        data.load(path)
    torch.save(torch.zeros(3), path)
    with pytest.raises(DataError, match=r"a mapping or a pair .* got Tensor"):
        data.load(path)
    torch.save({"a": torch.zeros(3)}, path)
    with pytest.raises(DataError, match="it holds a"):
        data.load(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match="cannot be read as tensors alone"):
        data.load(path)


# --- folders of pictures ----------------------------------------------------------------------------------------------


def picture(path: Path, size: tuple[int, int] = (6, 4), mode: str = "L", value: int = 51) -> None:
    """A picture of one value; ``size`` is (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = value if mode in ("L", "I;16") else (value, 0, 255)
    Image.new(mode, size[::-1], colour).save(path)


def test_picture_folder(tmp_path):
    picture(tmp_path / "dog" / "2.png", value=102)
    picture(tmp_path / "dog" / "1.png", value=51)
    picture(tmp_path / "cat" / "9.PNG", value=204)
    (tmp_path / "cat" / "notes.txt").write_text("not a picture")
    (tmp_path / "cat" / ".hidden.png").write_text("nor this")
    (tmp_path / ".git").mkdir()
    batches = data.load(tmp_path)
    inputs, labels = next(iter(batches))
    assert batches.concept_names == ("cat", "dog") and labels.tolist() == [0, 1, 1]
    assert inputs.shape == (3, 1, 6, 4)
    assert torch.allclose(inputs[:, 0, 0, 0], torch.tensor([0.8, 0.2, 0.4]))


def test_one_picture_in_colour_makes_all_rgb(tmp_path):
    picture(tmp_path / "a" / "1.png", mode="L")
    picture(tmp_path / "a" / "2.png", mode="RGB")
    inputs, _ = next(iter(data.load(tmp_path)))
    assert inputs.shape == (2, 3, 6, 4)
    assert torch.allclose(inputs[1, :, 0, 0], torch.tensor([0.2, 0.0, 1.0]))


def test_pictures_of_several_sizes_need_a_size(tmp_path):
    picture(tmp_path / "a" / "1.png", (6, 4))
    picture(tmp_path / "b" / "2.png", (5, 5))
    with pytest.raises(DataError, match=r"got 2 sizes: .*1.png is 6 x 4 and .*2.png is 5 x 5 .*--size HxW"):
        data.load(tmp_path)
    inputs, _ = next(iter(data.load(tmp_path, size=(3, 7))))
    assert inputs.shape == (2, 1, 3, 7)


def test_picture_folder_refuses(tmp_path):
    with pytest.raises(DataError, match="found none"):
        data.load(tmp_path)
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match=r"holds no picture .* it holds nothing"):
        data.load(tmp_path)
    (tmp_path / "a" / "list.csv").write_text("")
    with pytest.raises(DataError, match=r"it holds \.csv"):
        data.load(tmp_path)
    (tmp_path / "a" / "1.png").write_bytes(b"no pixels")
    with pytest.raises(DataError, match="none that pillow can read"):
        data.load(tmp_path)
    picture(tmp_path / "a" / "1.png", mode="I;16")
    with pytest.raises(DataError, match="8 bits per channel"):
        data.load(tmp_path)


def test_a_picture_cut_short_is_named(tmp_path):
    path = tmp_path / "a" / "1.png"
    path.parent.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes()[:800])
    with pytest.raises(DataError, match=r"1\.png cannot be decoded"):
        list(data.load(tmp_path))


# --- by name ----------------------------------------------------------------------------------------------------------


def test_bundled_digits():
    batches = data.load("sklearn:digits", batch_size=1000)
    inputs, _ = next(iter(batches))
    assert batches.size == 1797 and batches.concept_names == tuple("0123456789") and len(batches) == 2
    assert inputs.shape == (1000, 1, 8, 8) and inputs.min() == 0 and inputs.max() == 1
    assert next(iter(data.load("sklearn:digits", flatten=True)))[0].shape == (256, 64)


def test_load_refuses(tmp_path):
    with pytest.raises(DataError, match=r"No bundled data set is called 'digit'. Did you mean 'digits'"):
        data.load("sklearn:digit")
    with pytest.raises(DataError, match=r"There is no nowhere\.npz\. Expected a folder of pictures"):
        data.load("nowhere.npz")
    (tmp_path / "table.csv").write_text("1,2")
    with pytest.raises(DataError, match=r"Expected a folder of pictures, an .npz file.*table.csv"):
        data.load(tmp_path / "table.csv")
    with pytest.raises(DataError, match="Only folders of pictures are scaled"):
        data.load("sklearn:digits", size=(4, 4))
    with pytest.raises(DataError, match=r"Only \.npz and .pt files have keys"):
        data.load("sklearn:digits", labels_key="y")


# --- idx and MNIST ----------------------------------------------------------------------------------------------------


def idx(path: Path, array: np.ndarray, *, kind: int = 8, shape: tuple[int, ...] | None = None) -> Path:
    shape = array.shape if shape is None else shape
    header = struct.pack(">HBB", 0, kind, len(shape)) + struct.pack(f">{len(shape)}I", *shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(header + array.tobytes()))
    return path


def test_idx_round_trip(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert np.array_equal(read_idx(idx(tmp_path / "a.gz", array), dims=3), array)


def test_idx_refuses(tmp_path):
    array = np.zeros((2, 3), np.uint8)
    path = tmp_path / "a.gz"
    with pytest.raises(DataError, match="Expected an idx file at"):
        read_idx(path, dims=2)
    with pytest.raises(DataError, match=r"begins with 00000802"):
        read_idx(idx(path, array), dims=3)
    with pytest.raises(DataError, match=r"first bytes 00000802.*begins with 00000d02"):
        read_idx(idx(path, array, kind=13), dims=2)
    with pytest.raises(DataError, match=r"announces 2 x 4 = 8 bytes, 6 follow"):
        read_idx(idx(path, array, shape=(2, 4)), dims=2)
    path.write_bytes(gzip.compress(b"\0\0"))
    with pytest.raises(DataError, match="holds 2 bytes"):
        read_idx(path, dims=2)
    whole = idx(path, np.random.default_rng(0).integers(0, 256, (50, 50), np.uint8)).read_bytes()
    for broken in (whole[:-200], b"plain" + whole, whole[:60] + bytes([whole[60] ^ 255]) + whole[61:]):
        path.write_bytes(broken)
        with pytest.raises(DataError, match="not an intact gzip file"):
            read_idx(path, dims=2)


@pytest.fixture
def small_mnist(tmp_path, monkeypatch):
    """A LASHLEY_DATA folder whose MNIST has six test images."""
    monkeypatch.setitem(mnist_module.SIZES, "test", 6)
    monkeypatch.setenv("LASHLEY_DATA", str(tmp_path))
    images = np.random.default_rng(0).integers(0, 256, (6, 28, 28), dtype=np.uint8)
    labels = np.arange(6, dtype=np.uint8)
    idx(tmp_path / "mnist" / "t10k-images-idx3-ubyte.gz", images)
    idx(tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz", labels)
    return images, labels


def test_mnist_from_a_folder(small_mnist):
    images, labels = mnist("test")
    assert np.array_equal(images, small_mnist[0]) and np.array_equal(labels, small_mnist[1])


def test_mnist_refuses(small_mnist, tmp_path):
    with pytest.raises(DataError, match="splits 'train' and 'test', got 'validation'"):
        mnist("validation")
    with pytest.raises(DataError, match=r"Expected an idx file at .*train-images"):
        mnist("train")
    idx(tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz", np.zeros(5, np.uint8))
    with pytest.raises(DataError, match=r"Expected 6 images .* labels \(5,\)"):
        mnist("test")


def test_mnist_without_folder_or_network_says_what_to_do(monkeypatch):
    monkeypatch.delenv("LASHLEY_DATA", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pyarrow .*LASHLEY_DATA"):
        mnist("test")


def test_mnist_from_the_hub(small_mnist, monkeypatch):
    """The Hub's parquet file holds PNG bytes. Network and parquet reader are replaced, the rest is ours."""
    images, labels = small_mnist
    rows = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, format="PNG")
        rows.append({"bytes": file.getvalue(), "path": None})
    columns = {"image": rows, "label": labels.tolist()}
    asked = []

    def download(repository, name, repo_type):
        asked.append((repository, name, repo_type))
        return "a file"

    def read_table(path):
        assert path == "a file"
        return {name: SimpleNamespace(to_pylist=lambda values=values: values) for name, values in columns.items()}

    parquet = ModuleType("pyarrow.parquet")
    parquet.read_table = read_table
    monkeypatch.setitem(sys.modules, "pyarrow", SimpleNamespace(parquet=parquet))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", parquet)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.delenv("LASHLEY_DATA")
    found, found_labels = mnist("test")
    assert asked == [("ylecun/mnist", "mnist/test-00000-of-00001.parquet", "dataset")]
    assert np.array_equal(found, images) and np.array_equal(found_labels, labels)

    def offline(*args, **kwargs):
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(DataError, match=r"could not be fetched from the Hub.*LASHLEY_DATA"):
        mnist("test")


@pytest.mark.data
@pytest.mark.parametrize(("split", "count"), [("train", 60_000), ("test", 10_000)])
def test_real_mnist(split, count):
    assert "LASHLEY_DATA" in os.environ
    images, labels = mnist(split)
    assert images.shape == (count, 28, 28) and images.dtype == np.uint8
    assert sorted(set(labels.tolist())) == list(range(10))
    assert 5000 * count // 60_000 < np.bincount(labels).min()
