"""What a command line says about texts: the options of `lashley.text_batches`, and a tokenizer."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lashley.cli.common import UsageError, positive
from lashley.cli.weights import first_line
from lashley.errors import ModelError

__all__ = ["SET_HELP", "add_text_options", "load_tokenizer", "text_options"]

SET_HELP = "FILE (.jsonl .json .csv .parquet .txt) or hf:OWNER/NAME[:CONFIG][@REVISION][#SPLIT]; #0:20 at the end: rows"


def add_text_options(parser: argparse.ArgumentParser) -> None:
    """The options that say how rows become tokens."""
    group = parser.add_argument_group("how rows become tokens")
    group.add_argument(
        "--rows-of", choices=("answer", "all"), default="answer", help="which tokens count (%(default)s)"
    )
    group.add_argument(
        "--columns",
        nargs="+",
        metavar="FIELD=COLUMN",
        help="where a row's fields are (text; prompt and completion; question and answer; messages), if not under "
        "these names",
    )
    group.add_argument(
        "--template",
        nargs=2,
        metavar=("PROMPT", "COMPLETION"),
        help=r"with {field} for a row's fields and \n for a line break; default for questions and answers: "
        r"'Question: {question}\nAnswer:' ' {answer}'",
    )
    group.add_argument(
        "--chat",
        nargs="*",
        metavar="KEY=VALUE",
        help="make a chat of prompts and completions, with the tokenizer's template and these variables of it; "
        "system=TEXT is the system message",
    )
    group.add_argument(
        "--max-length", type=positive, metavar="N", help="cut rows at N tokens (default: the tokenizer's)"
    )


def text_options(args: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of `lashley.text_batches`."""
    chat = _pairs("--chat", args.chat) if args.chat is not None else None
    return {
        "rows_of": args.rows_of,
        "columns": _pairs("--columns", args.columns) if args.columns else None,
        "template": tuple(part.replace("\\n", "\n") for part in args.template) if args.template else None,
        "chat": True if chat == {} else chat,
        "max_length": args.max_length,
    }


def load_tokenizer(folder: str) -> Any:
    """The tokenizer in a folder. Code inside the folder is never run.

    Raises:
        ModelError: no transformers, no such folder, or no tokenizer in it.
    """
    if not Path(folder).is_dir():
        raise ModelError(f"Expected the folder of a tokenizer or of a checkpoint, got {folder}, which is none.")
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ModelError(f"A tokenizer takes transformers ({error}): pip install 'lashley[hf]'.") from error
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"transformers found no tokenizer in {folder}: {first_line(error)} Expected tokenizer.json and "
            "tokenizer_config.json there; name another folder with --tokenizer."
        ) from error


def _pairs(option: str, values: Sequence[str]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    for key, equals, _ in pairs:
        if not key or not equals:
            raise UsageError(f"expected KEY=VALUE after {option}, got {key!r}.")
    return {key: value for key, _, value in pairs}
