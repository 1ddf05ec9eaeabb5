"""`regard explore`: serve recordings to the browser until Ctrl-C, or write them as one page."""

from __future__ import annotations

import argparse
import secrets
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from regard.analysis.open_recording import OpenRecording
from regard.cli.command import Subparsers
from regard.errors import OptionError
from regard.export import front_end
from regard.export.offline_page import SMALLER, prepare_page
from regard.export.options import ExportOptions
from regard.recording import Progress as Recorded
from regard.recording import Recording, size_in_words
from regard.recording.array_files import is_array_file
from regard.recording.cached import cached_array_recording, cached_text_recording
from regard.system.atomic_files import writable_path
from regard.system.text_source import read_source

_SUFFIX = ".safetensors"

LARGE = 32 << 20
"""Bytes of a page from which on a hint says how to get a smaller one."""


def add_parser(commands: Subparsers) -> None:
    """Add the options of `regard explore`."""
    parser = commands.add_parser(
        "explore",
        help="see a run's attention in the browser, down to one weight",
        description="Serve a map of a run's attention to this machine's browser: a recording that "
        "`regard record` made (two to compare), a text, which is recorded first and kept, or arrays q and k. "
        "Without any the page opens them.",
    )
    parser.add_argument(
        "what",
        metavar="FILE_OR_TEXT",
        nargs="*",
        help="a recording, a file, - for standard input, a text, or q and k in an .npz or .safetensors file",
    )
    parser.add_argument("--causal", action="store_true", help="with arrays: queries see no later keys")
    parser.add_argument(
        "--scale", type=float, metavar="X", help="with arrays: what q·k is multiplied with; 1/√d by default"
    )
    parser.add_argument(
        "--model",
        default="python",
        metavar="NAME_OR_PATH",
        help="what reads a text: 'python' (embedded), or as `regard look` has it",
    )
    parser.add_argument("--port", type=int, default=0, metavar="N", help="listen there; by default where is free")
    parser.add_argument("--no-browser", dest="browser", action="store_false", help="print the URL, open nothing")
    parser.add_argument("--out", metavar="PAGE.html", help="write it as one HTML file that needs no server, and end")
    parser.add_argument("--layer", type=int, nargs="+", metavar="N", help="with --out: only these layers, from 0")
    parser.add_argument(
        "--head", type=int, nargs="+", metavar="N", help="with --out: only these heads of each layer, from 0"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="with --out: in what numbers; by default as recorded while the page is small, "
        "else float16, and the error is measured and said",
    )
    parser.add_argument("--values", action="store_true", help="with --out: keep values too, where they were recorded")
    parser.set_defaults(run=main)


def main(options: argparse.Namespace, console: Console) -> None:
    """Serve recordings, or none yet, and say where; or write them as one page."""
    for name in ("causal", "scale"):
        if getattr(options, name) and not any(is_array_file(Path(what)) for what in options.what):
            raise OptionError(
                f"--{name}",
                "no arrays",
                f"--{name} with a file of arrays, q and k",
                "Leave it out: a recording knows its own.",
            )
    if options.out is not None:
        if not options.what:
            raise OptionError(
                "--out",
                "nothing to write",
                "a recording, a file, arrays or a text",
                "Name it: regard explore WHAT --out page.html.",
            )
        path = writable_path(Path(options.out))
        export_options = ExportOptions(_several(options.layer), _several(options.head), options.dtype, options.values)
        recordings = _open_all(options, console)
        write(recordings, path, export_options, console)
        return
    for name in ("layer", "head", "dtype", "values"):
        if getattr(options, name):
            raise OptionError(
                f"--{name}",
                "no --out",
                f"--{name} with --out, for a page that is written",
                "Add --out page.html, or leave it out: the server shows all.",
            )
    try:
        from regard.explorer.server import HOST, Server, application, listening
        from regard.explorer.state import Explorer
    except ImportError as error:
        raise OptionError(
            "explore",
            f"no {error.name}",
            "an installation with the extra explore",
            'Install it: pip install "regard[explore]"',
        ) from error
    port: int = options.port
    if not 0 <= port < 65536:
        raise OptionError("--port", port, "a port from 0 to 65535", "Leave it out: a free one is taken.")
    _build_front_end(console)
    with listening(port) as ear:
        recordings = _open_all(options, console)
        port = ear.getsockname()[1]
        token = secrets.token_urlsafe(24)
        explorer = Explorer({recording.id: recording for recording in recordings}, models=(options.model,))
        server = Server(application(explorer, port, token), explorer)
        url = f"http://{HOST}:{port}/#token={token}"
        console.print("open", end=" ")
        console.print(url, style="bold", markup=False, soft_wrap=True)
        console.print("[dim]only this machine can, and only with this URL; Ctrl-C ends it")
        console.file.flush()
        if options.browser:
            threading.Timer(0.3, webbrowser.open, (url,)).start()
        try:
            server.run(sockets=[ear])
        except KeyboardInterrupt:
            pass  # how it is meant to end; all has been closed
        finally:
            explorer.close()
    console.print("ended")


def write(recordings: Sequence[OpenRecording], path: Path, export_options: ExportOptions, console: Console) -> None:
    """Write recordings as one page; say before how large it will be, and what its numbers are."""
    front_end.ensure_built(lambda line: console.print(line, markup=False, style="dim", soft_wrap=True))
    errors = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("", total=1.0)
        page = prepare_page(
            recordings,
            export_options,
            lambda progress: bar.update(task, completed=progress.progress, description=progress.doing),
        )
    with page:
        summary = page.summary
        console.print(
            f"will write {size_in_words(page.size)}: queries and keys in {summary['dtype']}, {summary['error']}",
            markup=False,
            soft_wrap=True,
        )
        if page.size > LARGE:
            console.print(f"[dim]{SMALLER}", soft_wrap=True)
        console.file.flush()
        page.write(path)
    console.print("the page, one file that needs no other, is", end=" ")
    console.print(str(path.resolve()), style="bold", markup=False, soft_wrap=True)


def _several(given: list[int] | None) -> tuple[int, ...] | None:
    return None if given is None else tuple(given)


def _build_front_end(console: Console) -> None:
    """Build the front end; without it the server still answers, and says at / what is missing."""
    try:
        front_end.ensure_built(lambda line: console.print(line, markup=False, style="dim"))
    except OptionError as error:
        console.print(str(error), markup=False, soft_wrap=True)


def _open_all(options: argparse.Namespace, console: Console) -> list[OpenRecording]:
    """What the options name, each once."""
    recordings = [_open_one(what, options, console) for what in options.what]
    return [*{recording.id: recording for recording in recordings}.values()]


def _open_one(what: str, options: argparse.Namespace, console: Console) -> OpenRecording:
    """A recording by its path, or one made of arrays or a text and cached for the next time."""
    path = Path(what)
    if is_array_file(path):
        if not path.is_file():
            raise OptionError("FILE", f"{what}, which is not there", "a file of arrays, q and k", "Check the path.")
        return OpenRecording.of(cached_array_recording(path, path.name, options.causal, options.scale), path.name)
    if what.endswith(_SUFFIX):
        return OpenRecording.of(Recording.open(path))
    source = read_source(what)

    def on_layer(now: Recorded) -> None:
        if not now.done:
            console.print(
                f"recording {source.name} with {options.model}, about {size_in_words(now.whole)} …",
                markup=False,
                style="dim",
                soft_wrap=True,
            )
            console.file.flush()

    return OpenRecording.of(cached_text_recording(source, options.model, on_layer), source.name)
