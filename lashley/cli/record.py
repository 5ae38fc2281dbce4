"""``lashley record``: one pass over labelled data, the moments of every class into a folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lashley.cli.common import add_json, add_verb, emit, human_bytes, table, tell
from lashley.cli.labelled import add_data, for_model, labelled, running_on
from lashley.cli.models import MODEL_HELP, add_selection, add_weights, load_model, moved, selection

if TYPE_CHECKING:
    from lashley.data import LabelledBatches
    from lashley.recording import Recording

TEXT = """\
Run MODEL once over labelled data and keep the moments of every class (concept) at every layer's input.

The data is a folder of pictures with a sub-folder per class, an .npz file (inputs under x, inputs, images, ..., labels
under y, labels, ...; class_names if there are any), a .pt file with the same keys or a pair (inputs, labels), or
sklearn:digits. Bytes become float32 in 0..1 and pictures channels first; everything else stays as it is stored, floats
in the type of the model's weights.
"""
EXAMPLE = """\
  lashley record mynet:build --data sklearn:digits --flatten --out digits.rec
  lashley record mynet:build --weights trained.pt --data photos/ --size 64x64 --normalize 0.5 0.5 --out photos.rec
  lashley record mynet:build --data photos/ --checkpoint photos.rec --out photos.rec
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = add_verb(subparsers, "record", "record the moments of every class of data", text=TEXT, example=EXAMPLE)
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    add_weights(parser)
    parser.add_argument("--out", required=True, metavar="REC", help="the folder to write; complete or absent")
    add_data(parser).add_argument("--concepts", nargs="+", metavar="NAME", help="only these classes (default: all)")
    add_selection(parser)
    run_ = parser.add_argument_group("how")
    run_.add_argument(
        "--checkpoint",
        metavar="DIR",
        help="a folder, REC itself if you like: killed, the same command goes on from there when it is run again",
    )
    run_.add_argument(
        "--keep",
        choices=("moments", "products"),
        default="moments",
        help="products: of each class only what the paper's formula needs, often much smaller (default: moments)",
    )
    run_.add_argument(
        "--dtype",
        choices=("float32", "float64"),
        help="of the products; sums are float64 (default: float64 up to 256 columns, float32 above)",
    )
    run_.add_argument("--device", metavar="DEVICE", help="where to run, such as cuda (default: where the model is)")
    run_.add_argument("--no-progress", action="store_true", help="no bar on a terminal, no lines in a pipe")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    import torch

    import lashley
    from lashley.store import check_target

    in_place = args.checkpoint is not None and Path(args.checkpoint).resolve() == Path(args.out).resolve()
    if not in_place:
        check_target(args.out)  # before the work rather than after it
    data = labelled(args, args.data, args.concepts)
    model = load_model(args.model, args.weights)
    if args.device:
        model = moved(model, args.device)
    data = for_model(data, model)
    if not args.no_progress:
        tell(f"{data.size} samples of {len(data.concept_names)} concepts in {len(data)} batches")
    options: dict[str, Any] = {
        **selection(args),
        "checkpoint": args.checkpoint,
        "keep": args.keep,
        "dtype": getattr(torch, args.dtype) if args.dtype else None,
        "progress": not args.no_progress,
    }
    with running_on(data):
        if data.overlapping:
            options |= {"concept_of": lambda batch: batch[1], "concept_names": data.concept_names}
            recording = lashley.record(model, data, **options)
        else:
            recording = lashley.record(model, data.by_concept(), **options)
    if not in_place:
        recording.save(args.out)
    emit(args, _document(args.out, recording, data), lambda: _text(args.out, recording, data))
    return 0


def _document(out: str, recording: Recording, data: LabelledBatches) -> dict[str, Any]:
    return {
        "out": out,
        "concepts": {name: count for name, count in data.counts.items() if name in recording.concepts},
        "sites": [{"name": s.name, "dim": s.dim, "rows": s.rows, "layers": s.layers} for s in recording.sites],
        "bytes": _bytes(out),
    }


def _text(out: str, recording: Recording, data: LabelledBatches) -> str:
    rows = [(site.name, site.dim, site.rows, ", ".join(site.layers)) for site in recording.sites]
    return (
        f"{table(('site', 'D', 'rows', 'layers'), rows)}\n\n"
        f"{len(recording.concepts)} concepts ({', '.join(recording.concepts)}), {data.size} samples, "
        f"{human_bytes(_bytes(out))} in {out}"
    )


def _bytes(folder: str) -> int:
    return sum(file.stat().st_size for file in Path(folder).iterdir())
