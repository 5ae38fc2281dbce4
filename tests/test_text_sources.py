"""Sets by name: files of every kind, ranges of rows, and the Hub with and without a network."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlparse

import pyarrow
import pyarrow.parquet
import pytest
from huggingface_hub import constants

from lashley.data.text import load_texts
from lashley.errors import DataError

ROWS = [{"question": f"Who is {name}?", "answer": f"{name},\nof Paris é"} for name in ("Ada", "Bo", "Cy", "Di")]


def write(path: Path) -> Path:
    """The rows in a file of the kind that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl" or path.name == "lines.json":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(ROWS), encoding="utf-8")
    elif path.suffix == ".csv":
        lines = ["question,answer", *(f'{row["question"]},"{row["answer"]}"' for row in ROWS)]
        path.write_text("\n".join(lines), encoding="utf-8-sig")
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "lines.json", "a.csv", "a.parquet"])
def test_the_rows_of_a_file(tmp_path, name):
    path = write(tmp_path / name)
    assert load_texts(path) == load_texts(str(path)) == ROWS


def test_a_text_file_is_a_text_per_line(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(" Ada wrote.\n\n  \nBo \u2028 read.\n", encoding="utf-8")
    assert load_texts(path) == [" Ada wrote.", "Bo \u2028 read."]


def test_json_lines_may_hold_texts_and_signs_that_end_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('"Ada \u2028 wrote"\n\n["a", "b"]\r\n', encoding="utf-8")
    assert load_texts(path) == ["Ada \u2028 wrote", ["a", "b"]]


def test_an_iterable_is_read_once():
    rows = iter(["a", "b"])
    assert load_texts(rows) == ["a", "b"] and load_texts(rows) == []


@pytest.mark.parametrize(
    ("ranges", "rows"), [("0:2", [0, 1]), ("3:", [3]), (":1", [0]), (":", [0, 1, 2, 3]), ("2:4,0:1", [2, 3, 0])]
)
def test_ranges_of_rows(tmp_path, ranges, rows):
    path = write(tmp_path / "a.jsonl")
    assert load_texts(f"{path}#{ranges}") == [ROWS[row] for row in rows]


@pytest.mark.parametrize("ranges", ["2:2", "3:2", "0:5", "9:", "0:1,4:5"])
def test_a_range_that_is_not_there_is_refused(tmp_path, ranges):
    path = write(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match=r"expected a range within 0:4 that is not empty"):
        load_texts(f"{path}#{ranges}")


WRONG_FILES = {
    "plain.jsonl": (b"I'm not sure.\n", "Expected JSON in line 1 of .*plain.jsonl.* ends in .txt"),
    "second.jsonl": (b'{"text": "a"}\n{"text": \n', "Expected JSON in line 2"),
    "broken.json": (b'[{"text": "a"}', "Expected JSON in line 1"),
    "latin.txt": ("é".encode("latin-1"), "Expected text in UTF-8 in .*, got byte 0xe9"),
    "wide.csv": (b"text\na,b\n", "Line 2 of .* has not the 1 columns"),
    "narrow.csv": (b"a,b\nx\n", "Line 2 of .* has not the 2 columns"),
    "quotes.csv": (b'text\n"a" b\n', "quotes.csv is not CSV after line 1: "),
    "broken.parquet": (b"PAR1", "is not an intact parquet file"),
    "empty.txt": (b"\n\n", "Expected rows in .*empty.txt, got none"),
    "notes.docx": (b"x", "Expected a file that ends in .jsonl, .json, .csv, .parquet, .txt, got"),
}


@pytest.mark.parametrize("name", WRONG_FILES)
def test_a_file_that_is_not_what_it_says_is_refused(tmp_path, name):
    content, says = WRONG_FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=says):
        load_texts(tmp_path / name)


def test_what_is_no_file_is_refused(tmp_path):
    write(tmp_path / "forget.jsonl")
    with pytest.raises(DataError, match=r"no file .*forgot.jsonl. Did you mean '.*forget.jsonl'"):
        load_texts(tmp_path / "forgot.jsonl")
    with pytest.raises(DataError, match="There is no file Ada wrote the book.* a single text is given in a list"):
        load_texts("Ada wrote the book")
    with pytest.raises(DataError, match="got the folder .* It holds forget.jsonl: name one of them"):
        load_texts(tmp_path)
    with pytest.raises(DataError, match="an iterable of texts, pairs, mappings or chats, got int"):
        load_texts(3)


# --- the Hub, from the cache ------------------------------------------------------------------------------------------

COMMIT = "0123456789" * 4
CARD = """---
configs:
- config_name: full
  data_files: full.json
- config_name: parts
  data_files:
  - split: train
    path: parts/train-*.jsonl
  - split: test
    path: [parts/test.csv]
---
# Sets
"""


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.delenv("LASHLEY_DATA", raising=False)
    return folder


def cached(cache: Path, revision: str, *files: str, card: str | None = None) -> Path:
    """A repository o/n in the cache, with the rows in every file."""
    root = cache / "datasets--o--n"
    snapshot = root / "snapshots" / COMMIT
    reference = root / "refs" / revision
    reference.parent.mkdir(parents=True, exist_ok=True)
    reference.write_text(COMMIT)
    for file in files:
        write(snapshot / file)
    if card is not None:
        snapshot.mkdir(parents=True, exist_ok=True)
        (snapshot / "README.md").write_text(card)
    return snapshot


def test_the_conversion_of_the_hub(cache):
    cached(
        cache, "refs/convert/parquet", "default/train/0000.parquet", "default/train/0001.parquet", "b/test/0.parquet"
    )
    assert load_texts("hf:o/n#train") == ROWS * 2
    assert load_texts("hf:o/n") == ROWS * 2 and load_texts("hf:o/n:b") == ROWS
    assert load_texts("hf:o/n:b#test#1:2") == load_texts("hf:o/n:b#1:2") == ROWS[1:2]
    with pytest.raises(DataError, match="has no config 'c'. Known are 'b', 'default'"):
        load_texts("hf:o/n:c")
    with pytest.raises(DataError, match="has no split 'tset'. Did you mean 'test'"):
        load_texts("hf:o/n:b#tset")


def test_more_than_one_config_or_split_has_to_be_named(cache):
    cached(cache, "refs/convert/parquet", "a/train/0000.parquet", "a/test/0000.parquet", "b/partial-train/0000.parquet")
    with pytest.raises(DataError, match="has 2 configs: a, b. Say which with :CONFIG"):
        load_texts("hf:o/n")
    with pytest.raises(DataError, match="has 2 splits: test, train. Say which with #SPLIT"):
        load_texts("hf:o/n:a")
    with pytest.raises(DataError, match="only the beginning of 'train'. Take that with #partial-train"):
        load_texts("hf:o/n:b#train")
    assert load_texts("hf:o/n:b#partial-train") == ROWS


def test_what_the_readme_declares(cache):
    shards = [f"parts/train-0000{part}-of-00002.jsonl" for part in (0, 1)]
    cached(cache, "main", "full.json", *shards, "parts/test.csv", card=CARD)
    for revision in ("", "@main", f"@{COMMIT}"):
        assert load_texts(f"hf:o/n:full{revision}") == ROWS
        assert load_texts(f"hf:o/n:parts{revision}#train") == ROWS * 2
        assert load_texts(f"hf:o/n:parts{revision}#test") == ROWS


@pytest.mark.parametrize(
    ("card", "says"),
    [
        ("---\nconfigs: [\n---\n", "README.md of hf:o/n@main has no readable head"),
        ("---\nconfigs: [full]\n---\n", "declares"),
    ],
)
def test_a_readme_that_cannot_be_read_is_refused(cache, card, says):
    cached(cache, "main", "full.json", card=card)
    with pytest.raises(DataError, match=says):
        load_texts("hf:o/n@main")


def test_files_named_after_configs_and_splits(cache):
    cached(cache, "main", "data/train-00000-of-00001.parquet", "data/test.jsonl", "b/test.csv", "dataset_infos.json")
    assert load_texts("hf:o/n#train") == load_texts("hf:o/n#test") == load_texts("hf:o/n:b") == ROWS


def test_a_shard_that_is_not_in_the_cache_is_missed(cache):
    cached(cache, "main", "data/train-00000-of-00002.parquet")
    with pytest.raises(DataError, match="expected 2 parts such as data/train-00000-of-00002.parquet, got 1"):
        load_texts("hf:o/n#train")


def test_what_is_nowhere_is_refused(cache):
    with pytest.raises(DataError, match="hf:o/n@v1#train was found neither .* in its cache at revision 'v1'"):
        load_texts("hf:o/n@v1#train")
    with pytest.raises(DataError, match="Expected hf:OWNER/NAME"):
        load_texts("hf:tofu")
    cached(cache, "main", card="---\n---\n")
    with pytest.raises(DataError, match="has no file that ends in .jsonl"):
        load_texts("hf:o/n")


def test_tofu_is_read_from_the_folder_of_data(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("LASHLEY_DATA", str(tmp_path / "data"))
    write(tmp_path / "data" / "tofu" / "full.json")
    write(tmp_path / "data" / "tofu" / "forget01.json")
    for name in ("hf:locuslab/TOFU", "hf:locuslab/TOFU:forget01", "hf:locuslab/TOFU:full#train"):
        assert load_texts(name) == ROWS
    assert load_texts("hf:locuslab/TOFU:full#train#:2") == ROWS[:2]
    with pytest.raises(DataError, match="has no forget1.json. Did you mean 'forget01'"):
        load_texts("hf:locuslab/TOFU:forget1")
    with pytest.raises(DataError, match="no split 'test'. Its one split is 'train'"):
        load_texts("hf:locuslab/TOFU#test")
    with pytest.raises(DataError, match="neither on the Hub nor in its cache"):
        load_texts("hf:locuslab/TOFU@main")  # a revision is one of the Hub


@pytest.mark.data
def test_tofu_as_published(data_folder):
    full, forget, retain = (load_texts(f"hf:locuslab/TOFU:{name}#train") for name in ("full", "forget10", "retain90"))
    assert len(full) == 4000 and retain + forget == full and set(full[0]) == {"question", "answer"}
    assert load_texts(data_folder / "tofu" / "full.json#3600:") == forget


# --- the Hub, over HTTP -----------------------------------------------------------------------------------------------


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub as a download takes: one set, o/n, without a conversion to parquet."""

    files: dict[str, bytes]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        if path == "/api/datasets/o/n/revision/main":
            siblings = [{"rfilename": name} for name in self.files]
            self.answer({"id": "o/n", "sha": COMMIT, "siblings": siblings})
        elif path == f"/api/datasets/o/n/tree/{COMMIT}":
            entry = {"type": "file", "oid": "0" * 40}
            self.answer([{**entry, "path": name, "size": len(content)} for name, content in self.files.items()])
        elif path.startswith("/api/datasets/o/n/revision/"):
            self.answer({"error": "no such revision"}, 404, {"X-Error-Code": "RevisionNotFound"})
        elif path.startswith("/api/"):
            self.answer({"error": "no such set"}, 404, {"X-Error-Code": "RepoNotFound"})
        else:
            content = self.files[path.removeprefix(f"/datasets/o/n/resolve/{COMMIT}/")]
            self.answer(content, 200, {"ETag": f'"{hash(content):x}"', "X-Repo-Commit": COMMIT})

    do_HEAD = do_GET

    def answer(self, content: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Nothing: the test's own output is enough."""


@pytest.fixture
def hub(tmp_path) -> Iterator[str]:
    files = {"README.md": CARD.encode(), "full.json": write(tmp_path / "full.json").read_bytes(), "other.bin": b"x"}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Here", (Hub,), {"files": files}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def load_elsewhere(name: str, cache: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """The rows of a set as another process reads them, whose settings are read when it starts."""
    code = "import json, sys; from lashley.data.text import load_texts; print(json.dumps(load_texts(sys.argv[1])))"
    environment = {key: value for key, value in os.environ.items() if key != "LASHLEY_DATA"}
    environment |= {"HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", **settings}
    return subprocess.run([sys.executable, "-c", code, name], env=environment, capture_output=True, text=True)


def test_a_set_is_fetched_once_and_then_read_without_the_network(hub, tmp_path):
    cache = tmp_path / "hub"
    fetched = load_elsewhere("hf:o/n:full#train", cache, HF_ENDPOINT=hub, HF_HUB_OFFLINE="0")
    assert fetched.returncode == 0, fetched.stderr
    assert json.loads(fetched.stdout) == ROWS
    assert not list(cache.rglob("other.bin")), "what was not asked for is not fetched"
    for settings in ({"HF_HUB_OFFLINE": "1"}, {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}):
        again = load_elsewhere("hf:o/n:full#train", cache, **settings)
        assert again.returncode == 0, again.stderr
        assert json.loads(again.stdout) == ROWS
