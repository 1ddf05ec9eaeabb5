"""`regard look`, from its options to what it prints and writes."""

from __future__ import annotations

import tempfile
from argparse import Namespace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from regard.analysis.open_recording import OpenRecording
from regard.cli import look_tables
from regard.cli.explore import write
from regard.cli.record import recorded
from regard.export.front_end import ensure_built
from regard.export.options import ExportOptions
from regard.look.opening import Openable, open_model
from regard.look.study import Study, study
from regard.system.atomic_files import writable_path
from regard.system.text_source import Source, read

LONG = 2000
"""Bytes from which on a progress bar is worth its place."""


def main(options: Namespace, console: Console) -> None:
    """Look at what the options name, and write the page of it where that is asked for."""
    out = None if options.out is None else writable_path(Path(options.out))
    source = read(options.what)
    opened = open_model(options.model)
    found = _watched(opened, source, options)
    look_tables.show(console, found)
    console.print()
    if out is None:
        console.print("[dim]all of it as a map, down to one weight, in one file: add[/] --out page.html")
        return
    ensure_built(lambda line: console.print(line, markup=False, style="dim", soft_wrap=True))
    with tempfile.TemporaryDirectory(prefix="regard-look-") as folder:
        run = recorded(opened, source, found.words, Path(folder) / "run.safetensors")
        wanted = ExportOptions(_one(options.layer), _one(options.head))
        write([OpenRecording.of(run, source.name)], out, wanted, console)


def _one(given: int | None) -> tuple[int, ...] | None:
    return None if given is None else (given,)


def _watched(opened: Openable, source: Source, options: Namespace) -> Study:
    errors = Console(stderr=True)
    columns = (TextColumn("looking"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    quiet = source.size < LONG or not errors.is_terminal
    with Progress(*columns, console=errors, transient=True, disable=quiet) as bar:
        task = bar.add_task("", total=None)
        return study(
            opened,
            source,
            layer=options.layer,
            head=options.head,
            first=options.first,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
