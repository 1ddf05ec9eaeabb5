"""`regard look`: record a run, analyse it, print it, and write its page where one is asked for."""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from regard import recording
from regard.analysis.open_recording import OpenRecording
from regard.analysis.run_report import OnLayer, RunReport, run_report
from regard.cli import look_tables
from regard.cli.command import Subparsers
from regard.cli.explore import write
from regard.cli.record import record_text, tokenize
from regard.errors import OptionError
from regard.export.front_end import ensure_built
from regard.export.options import ExportOptions
from regard.integrations.opening import TextModel, open_model
from regard.recording import Recording
from regard.recording.writer import NothingRecorded
from regard.system.atomic_files import writable_path
from regard.system.hardware import peak_memory
from regard.system.text_source import TextSource, read_source

LONG = 2000
"""Bytes of a text from which on a progress bar is shown."""


def add_parser(commands: Subparsers) -> None:
    """Add the options of `regard look`."""
    parser = commands.add_parser(
        "look",
        help="see the attention of a model on a text",
        description="See the attention of a model on a text: every head in numbers, and those most worth "
        "showing with their strongest links and maps.",
    )
    parser.add_argument("what", metavar="FILE", help="a file, - for standard input, or a text")
    parser.add_argument(
        "--model",
        default="python",
        metavar="NAME_OR_PATH",
        help="'python' (embedded, the default), what regard.models.train wrote, or a model of "
        "transformers: its folder, or its name where it was downloaded before",
    )
    parser.add_argument("--first", type=int, metavar="N", help="read only the first N tokens")
    parser.add_argument("--layer", type=int, metavar="N", help="only this layer, from 0")
    parser.add_argument("--head", type=int, metavar="N", help="only this head of each layer, from 0")
    parser.add_argument(
        "--out", metavar="PAGE.html", help="write its whole map too, down to single weights, as one HTML file"
    )
    parser.set_defaults(run=main)


def main(options: argparse.Namespace, console: Console) -> None:
    """Record and analyse what the options name, print it, and write its page."""
    out = None if options.out is None else writable_path(Path(options.out))
    source = read_source(options.what)
    opened = open_model(options.model)
    with tempfile.TemporaryDirectory(prefix="regard-look-") as folder:
        run, report = _with_progress(opened, source, Path(folder), options)
        look_tables.show(console, report)
        console.print()
        if out is None:
            console.print("[dim]all of it as a map, down to one weight, in one file: add[/] --out page.html")
            return
        ensure_built(lambda line: console.print(line, markup=False, style="dim", soft_wrap=True))
        export = ExportOptions(_one(options.layer), _one(options.head))
        write([OpenRecording.of(run, source.name)], out, export, console)


def look(
    opened: TextModel,
    source: TextSource,
    folder: Path,
    *,
    first: int | None = None,
    layer: int | None = None,
    head: int | None = None,
    on_recorded: OnLayer | None = None,
    on_analysed: OnLayer | None = None,
) -> tuple[Recording, RunReport]:
    """Run a model once over a text, or its first tokens; record it in a folder, and analyse the recording.

    Args:
        opened: The model.
        source: The text.
        folder: Where the recording is written.
        first: How many tokens are read; None is all.
        layer, head: What of it is analysed; all by default.
        on_recorded, on_analysed: Called with how many layers are done, and of how many.

    Raises:
        OptionError: the model has no such layer or head, none that can be recorded, or no place for the text.
    """
    began = time.monotonic()
    if first is not None and first < 1:
        raise OptionError("--first", first, "1 or more tokens", "Leave it out to read the whole text.")
    tokens = tokenize(opened, source, first)

    def on_layer(now: recording.Progress) -> None:
        if on_recorded is not None:
            on_recorded(now.done, now.layers)

    try:
        run = record_text(opened, source, tokens, folder / "run.safetensors", progress=on_layer)
    except NothingRecorded as error:
        raise OptionError(
            "--model",
            opened.name,
            "models that use the attention interface of transformers",
            "This one computes attention by itself, where nothing can watch it.",
        ) from error
    report = run_report(run, source, tokens, layer=layer, head=head, on_layer=on_analysed)
    return run, dataclasses.replace(report, seconds=time.monotonic() - began, peak=peak_memory())


def _with_progress(
    opened: TextModel, source: TextSource, folder: Path, options: argparse.Namespace
) -> tuple[Recording, RunReport]:
    errors = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    quiet = source.size < LONG or not errors.is_terminal
    with Progress(*columns, console=errors, transient=True, disable=quiet) as bar:
        task = bar.add_task("running the model", total=None)

        def on_recorded(done: int, layers: int) -> None:
            bar.update(task, completed=done, total=2 * layers)

        def on_analysed(done: int, layers: int) -> None:
            bar.update(task, completed=layers + done, total=2 * layers, description="analysing")

        return look(
            opened,
            source,
            folder,
            first=options.first,
            layer=options.layer,
            head=options.head,
            on_recorded=on_recorded,
            on_analysed=on_analysed,
        )


def _one(number: int | None) -> tuple[int, ...] | None:
    return None if number is None else (number,)
