"""The command line: thin verbs over the public functions, one file each.

A verb has ``add_parser(subparsers)`` and ``run(args) -> int``. Neither its file nor its parser imports torch, so that
``--help`` answers at once; ``run`` imports what it needs.

Exit codes: 0 done, 1 refused (a `LashleyError` or an error of the file system; the message is on stderr), 2 wrong
usage, 130 interrupted. Results go to stdout, everything else to stderr.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import TextIO

from lashley import __version__
from lashley.cli.common import HelpFormatter, UsageError, tell
from lashley.errors import LashleyError, LashleyWarning

__all__ = ["main"]

VERBS = (
    *("demo", "layers", "data", "record", "merge", "engram", "check"),
    *("edit", "compare", "forget", "export", "report"),
)

EPILOG = """\
a first tour:
  lashley demo --out demo-out
  lashley layers mynet:build
  lashley record mynet:build --data sklearn:digits --flatten --out digits.rec
  lashley engram digits.rec --model mynet:build --concepts 3 --out three.engram
  lashley check digits.rec --model mynet:build --concepts 3 --data sklearn:digits --flatten
  lashley edit   mynet:build --engram three.engram --out without-three
  lashley compare mynet:build without-three

Every verb has its own --help.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; ``argv`` without the program's name, None: of this process."""
    parser, verbs = _parser()
    try:
        args = parser.parse_args(argv)
        with warnings.catch_warnings():
            warnings.simplefilter("always", LashleyWarning)
            warnings.showwarning = _show_warning
            return int(verbs[args.verb].run(args))
    except SystemExit as stop:  # argparse: 0 after --help, 2 after wrong usage
        return stop.code if isinstance(stop.code, int) else 1
    except UsageError as error:
        tell(f"lashley {args.verb}: {error}\nTry: lashley {args.verb} --help")
        return 2
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (LashleyError, OSError) as error:
        tell(f"lashley {args.verb}: {error}")
        return 1
    except KeyboardInterrupt:
        tell("interrupted")
        return 130


def _parser() -> tuple[argparse.ArgumentParser, dict[str, ModuleType]]:
    parser = argparse.ArgumentParser(
        prog="lashley",
        description="Find, test and edit memory traces (engrams) in trained neural networks.",
        epilog=EPILOG,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"lashley {__version__}")
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    verbs = {verb: importlib.import_module(f"lashley.cli.{verb}") for verb in VERBS}
    for verb in verbs.values():
        verb.add_parser(subparsers)
    return parser, verbs


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Our own warnings are sentences for the person at the keyboard; others keep the place they come from."""
    if issubclass(category, LashleyWarning):
        tell(f"warning: {message}")
    else:
        tell(warnings.formatwarning(message, category, filename, lineno, line).rstrip())
