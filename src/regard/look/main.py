"""`regard look`, from its options to what it prints and writes."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from regard.look import report, terminal
from regard.look.opening import Openable, open_model
from regard.look.study import Study, study
from regard.pages import writable
from regard.source import Source, read

LONG = 2000
"""Bytes from which on a progress bar is worth its place."""


def main(options: Namespace, console: Console) -> None:
    """Look at what the options name, and say where the report is."""
    out = None if options.out is None else writable(Path(options.out))
    source = read(options.what)
    opened = open_model(options.model)
    found = _watched(opened, source, options)
    terminal.show(console, found)
    console.print()
    if out is None:
        console.print(
            "[dim]every head's map, and the code coloured by attention: add[/] --out report.html"
        )
    else:
        size = report.write(found, out)
        console.print(f"the report, one file of {size / 2**20:.1f} MiB, is", end=" ")
        console.print(str(out.resolve()), style="bold", markup=False, soft_wrap=True)


def _watched(opened: Openable, source: Source, options: Namespace) -> Study:
    errors = Console(stderr=True)
    columns = (TextColumn("looking"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    quiet = source.size < LONG or not errors.is_terminal
    with Progress(*columns, console=errors, transient=True, disable=quiet) as bar:
        task = bar.add_task("", total=None)
        return study(
            opened, source, layer=options.layer, head=options.head, first=options.first,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )  # fmt: skip
