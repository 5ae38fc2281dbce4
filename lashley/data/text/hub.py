"""Rows of text from the Hugging Face Hub: parquet, JSON, CSV and text files, never a script.

Without a revision the Hub's own conversion to parquet is read (the branch ``refs/convert/parquet``, which it makes of
every public set), with one the repository's files at that revision: those that its README declares for a config and a
split, else those that are named after them. Without the network, or with ``HF_HUB_OFFLINE=1``, what an earlier call has
left in the cache is read. Sets that stand in the folder that ``LASHLEY_DATA`` names are read from there.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lashley.data.text.files import SUFFIXES, read_file
from lashley.errors import DataError, nearest

__all__ = ["PREFIX", "read_hub"]

PREFIX = "hf:"
_NAME = re.compile(r"hf:(?P<repo>[^/:@#]+/[^/:@#]+)(:(?P<config>[^@#]+))?(@(?P<revision>[^#]+))?(#(?P<split>[^#:]+))?")
_CONVERTED = "refs/convert/parquet"
_PARTIAL = "partial-"  # how the conversion calls a split of which it holds the beginning only
_SHARD = re.compile(r"-\d{5}-of-(\d{5})$")
_FOLDERS = {"locuslab/TOFU": "tofu"}  # in LASHLEY_DATA: a file per config, all of the split "train"
_DEFAULT = {"locuslab/TOFU": "full"}

Splits = Mapping[str, Mapping[str, list[str]]]  # config -> split -> files


@dataclass(frozen=True)
class _Asked:
    name: str
    repo: str
    config: str | None
    revision: str | None
    split: str | None


def read_hub(name: str) -> list[Any]:
    """The rows of ``hf:OWNER/NAME[:CONFIG][@REVISION][#SPLIT]``.

    Config and split may be left out where there is only one, or one called ``default``.

    Raises:
        DataError: no such set, config or split (what there is is listed), or neither the Hub nor the cache has it.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise DataError(f"Expected hf:OWNER/NAME[:CONFIG][@REVISION][#SPLIT], got {name!r}.")
    asked = _Asked(name, found["repo"], found["config"], found["revision"], found["split"])
    local = _at_hand(asked)
    if local is not None:
        return read_file(local)
    try:
        import huggingface_hub  # noqa: F401
    except ImportError as error:
        raise DataError(f"{name} takes huggingface_hub ({error}): pip install 'lashley[hf]'.") from error
    if asked.revision is None:
        branch = _Branch.of(asked, _CONVERTED)
        if branch is not None:
            return branch.rows(_converted(branch.files))
    branch = _Branch.of(asked, asked.revision or "main")
    if branch is None:
        raise DataError(
            f"{name} was found neither on the Hub nor in its cache"
            + (f" at revision {asked.revision!r}" if asked.revision else "")
            + ". Check the name and your access; without the network, run once with it, or name a local file."
        )
    return branch.rows(_declared(branch) or _named(branch.files, asked))


def _at_hand(asked: _Asked) -> Path | None:
    root, folder = os.environ.get("LASHLEY_DATA"), _FOLDERS.get(asked.repo)
    if not root or not folder or asked.revision is not None or not (Path(root) / folder).is_dir():
        return None
    files = {file.stem: file for file in sorted((Path(root) / folder).glob("*.json"))}
    config = asked.config or _DEFAULT[asked.repo]
    if config not in files:
        raise DataError(f"{asked.name}: {Path(root) / folder} has no {config}.json. {nearest(config, files)}")
    if asked.split not in (None, "train"):
        raise DataError(f"{asked.name}: there is no split {asked.split!r}. Its one split is 'train'.")
    return files[config]


@dataclass(frozen=True)
class _Branch:
    """A repository at a revision: its files, on the Hub or in the cache."""

    asked: _Asked
    commit: str
    files: list[str]
    online: bool

    @classmethod
    def of(cls, asked: _Asked, revision: str) -> _Branch | None:
        """None where neither the Hub nor the cache knows it."""
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import DryRunError, HfHubHTTPError, LocalEntryNotFoundError

        where: dict[str, Any] = {"repo_id": asked.repo, "repo_type": "dataset", "revision": revision}
        try:
            # Asks for nothing but an answer: without one the cache is read at once, where a listing would try for long.
            snapshot_download(**where, allow_patterns=["README.md"], dry_run=True)
            api = HfApi()
            commit = api.dataset_info(asked.repo, revision=revision).sha or revision
            return cls(asked, commit, api.list_repo_files(asked.repo, repo_type="dataset", revision=commit), True)
        except HfHubHTTPError:
            return None  # no such repository or revision, or none that this user may read
        except DryRunError:
            try:
                folder = Path(snapshot_download(**where, allow_patterns=[], local_files_only=True))
            except LocalEntryNotFoundError:
                return None
        files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
        return cls(asked, folder.name, files, False)

    def rows(self, configs: Splits) -> list[Any]:
        """The rows of the config and split that were asked for."""
        name = self.asked.name
        splits = configs[_one("config", self.asked.config, configs, name, ":CONFIG")]
        split = self.asked.split
        if split is not None and split not in splits and _PARTIAL + split in splits:
            raise DataError(
                f"{name}: the Hub's conversion holds only the beginning of {split!r}. Take that with "
                f"#{_PARTIAL}{split}, or the repository's own files with @main."
            )
        files = splits[_one("split", split, splits, name, "#SPLIT")]
        rows = []
        for file in self._complete(files):
            rows += read_file(self.fetched(file))
        return rows

    def _complete(self, files: list[str]) -> list[str]:
        """The files, if the shards are all there."""
        for file in files:
            shard = _SHARD.search(PurePosixPath(file).stem)
            if shard and sum(bool(_SHARD.search(PurePosixPath(other).stem)) for other in files) != int(shard[1]):
                raise DataError(f"{self.asked.name}: expected {int(shard[1])} parts such as {file}, got {len(files)}.")
        if not self.online:
            from huggingface_hub import snapshot_download
            from huggingface_hub.errors import LocalEntryNotFoundError

            folders = sorted({str(PurePosixPath(file).parent / "*") for file in files if "/" in file})
            try:
                snapshot_download(
                    self.asked.repo,
                    repo_type="dataset",
                    revision=self.commit,
                    allow_patterns=folders,
                    local_files_only=True,
                )
            except LocalEntryNotFoundError as error:
                raise DataError(f"{self.asked.name} is in the cache, but not whole: {error}") from error
        return files

    def fetched(self, file: str) -> Path:
        """The file on this machine."""
        from huggingface_hub import hf_hub_download

        try:
            return Path(hf_hub_download(self.asked.repo, file, repo_type="dataset", revision=self.commit))
        except OSError as error:  # of the Hub as well
            raise DataError(f"{self.asked.name}: {file} could not be fetched: {error}") from error


def _one(what: str, asked: str | None, known: Iterable[str], name: str, how: str) -> str:
    known = list(known)
    if asked is not None:
        if asked not in known:
            raise DataError(f"{name} has no {what} {asked!r}. {nearest(asked, known)}")
        return asked
    if len(known) == 1:
        return known[0]
    if "default" in known:
        return "default"
    raise DataError(f"{name} has {len(known)} {what}s: {', '.join(known[:12])}. Say which with {how}.")


def _converted(files: Iterable[str]) -> Splits:
    """The layout of the Hub's conversion: ``config/split/0000.parquet``."""
    configs: dict[str, dict[str, list[str]]] = {}
    for file in sorted(files):
        parts = file.split("/")
        if len(parts) == 3 and file.endswith(".parquet"):
            configs.setdefault(parts[0], {}).setdefault(parts[1], []).append(file)
    return configs


def _declared(branch: _Branch) -> Splits:
    """What the README says about configs and their files; empty where it says nothing."""
    if "README.md" not in branch.files:
        return {}
    from huggingface_hub import metadata_load

    readme = branch.fetched("README.md")
    try:
        metadata = metadata_load(readme) or {}
    except Exception as error:  # of the YAML parser, or ValueError
        raise DataError(f"The README.md of {branch.asked.name} has no readable head: {error}") from error
    configs: dict[str, dict[str, list[str]]] = {}
    for config in metadata.get("configs") or ():
        for split, pattern in _patterns(config, branch.asked.name):
            files = sorted(file for file in branch.files if fnmatch.fnmatch(file, pattern))
            if files:
                configs.setdefault(config.get("config_name", "default"), {}).setdefault(split, []).extend(files)
    return configs


def _patterns(config: Any, name: str) -> Iterator[tuple[str, str]]:
    """Split and pattern of every file that a config declares: a path, a list of paths, or of ``{split, path}``."""
    try:
        declared = config.get("data_files") or ()
        for part in [declared] if isinstance(declared, str) else declared:
            split, paths = ("train", part) if isinstance(part, str) else (part["split"], part["path"])
            yield from ((split, path) for path in ([paths] if isinstance(paths, str) else paths))
    except (AttributeError, KeyError, TypeError) as error:
        raise DataError(
            f"The README.md of {name} declares its files in a form that is not known: {config!r}. Name a local file."
        ) from error


def _named(files: Iterable[str], asked: _Asked) -> Splits:
    """Files that are named after a config and a split: ``train.jsonl``, ``full/test-00000-of-00002.parquet``."""
    configs: dict[str, dict[str, list[str]]] = {}
    for file in sorted(files):
        path = PurePosixPath(file)
        if path.suffix in SUFFIXES and path.name not in ("dataset_infos.json", "dataset_dict.json"):
            folders = [part for part in path.parts[:-1] if part != "data"]
            stem = _SHARD.sub("", path.stem)
            configs.setdefault("/".join(folders) or "default", {}).setdefault(stem, []).append(file)
    if not configs:
        raise DataError(f"{asked.name} has no file that ends in {', '.join(SUFFIXES)}.")
    return configs
