"""`regard explore`, from its options to the server that runs until Ctrl-C."""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
import webbrowser
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from regard import models
from regard.errors import OptionError
from regard.explorer import page
from regard.explorer.building import Book, cache_folder
from regard.explorer.carried import Wanted
from regard.explorer.offline import SMALLER, prepare
from regard.pages import writable
from regard.pretrained import open_pretrained
from regard.recording import Recording, record, size_in_words
from regard.source import Source, read

EMBEDDED = "python"
_SUFFIX = ".safetensors"

LARGE = 32 << 20
"""Bytes of a page from which on it is said how to get a smaller one."""


def main(options: Namespace, console: Console) -> None:
    """Serve one recording, or two to compare, and say where; or write them as one page."""
    if options.out is not None:
        place = writable(Path(options.out))
        wanted = Wanted(
            _several(options.layer), _several(options.head), options.dtype, options.values
        )
        runs = [_recording(what, options.model, console) for what in options.what]
        write(runs, place, wanted, console)
        return
    for name in ("layer", "head", "dtype", "values"):
        if getattr(options, name):
            raise OptionError(f"--{name}", "no --out", f"--{name} with --out, for a page that is written",
                              "Add --out page.html, or leave it out: the server shows all.")  # fmt: skip
    try:
        from regard.explorer.routes import Explorer
        from regard.explorer.server import HOST, Server, application, listening
    except ImportError as error:
        raise OptionError("explore", f"no {error.name}", "an installation with the extra explore",
                          'Install it: pip install "regard[explore]"') from error  # fmt: skip
    port: int = options.port
    if not 0 <= port < 65536:
        raise OptionError(
            "--port", port, "a port from 0 to 65535", "Leave it out: a free one is taken."
        )
    _page(console)
    with listening(port) as ear:
        books = [Book.of(_recording(what, options.model, console)) for what in options.what]
        port = ear.getsockname()[1]
        token = secrets.token_urlsafe(24)
        explorer = Explorer({book.id: book for book in books})
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


def write(runs: Sequence[Recording], place: Path, wanted: Wanted, console: Console) -> None:
    """Write recordings as one page; say before how large it will be, and what its numbers are."""
    page.ensure_built(lambda line: console.print(line, markup=False, style="dim"))
    errors = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("", total=1.0)
        made = prepare(
            *runs, wanted=wanted,
            progress=lambda told: bar.update(task, completed=told.progress, description=told.doing),
        )  # fmt: skip
    with made:
        told = made.told
        console.print(f"will write {size_in_words(made.size)}: queries and keys in {told['dtype']}, "
                      f"{told['error']}", markup=False, soft_wrap=True)  # fmt: skip
        if made.size > LARGE:
            console.print(f"[dim]{SMALLER}", soft_wrap=True)
        console.file.flush()
        made.write(place)
    console.print("the page, one file that needs no other, is", end=" ")
    console.print(str(place.resolve()), style="bold", markup=False, soft_wrap=True)


def _several(given: list[int] | None) -> tuple[int, ...] | None:
    return None if given is None else tuple(given)


def _page(console: Console) -> None:
    """Have the page built; without one the server still answers, and says at / what is missing."""
    try:
        page.ensure_built(lambda line: console.print(line, markup=False, style="dim"))
    except OptionError as error:
        console.print(str(error), markup=False, soft_wrap=True)


def _recording(what: str, model: str, console: Console) -> Recording:
    """A recording by its path, or one that is made of a text and kept for the next time."""
    path = Path(what)
    if what.endswith(_SUFFIX):
        return Recording.open(path)
    source = read(what)
    place = _place(source, model)
    if place.is_file():
        try:
            return Recording.open(place)
        except OptionError:
            place.unlink()
    console.print(f"recording {source.name} with {model} …", markup=False, style="dim")
    console.file.flush()
    opened, how = _opened(model)
    place.parent.mkdir(parents=True, exist_ok=True)
    return record(opened, source.text, to=place, name=model, values=True, **how)


def _place(source: Source, model: str) -> Path:
    """Where the recording of a text is kept: under its name, and what it depends on."""
    from importlib.metadata import version

    folder = Path(model)
    when = (
        max((path.stat().st_mtime_ns for path in folder.glob("*")), default=0)
        if folder.is_dir()
        else 0
    )
    on = json.dumps([source.text, model, when, version("regard")])
    digest = hashlib.sha256(on.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return cache_folder() / "recordings" / f"{file_name(source.name)}-{digest}{_SUFFIX}"


def file_name(of: str) -> str:
    """The name of a source, as a file may be called."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in of)[:60]


def _opened(model: str) -> tuple[Any, dict[str, Any]]:
    """A model, and its tokenizer where it does not bring one."""
    folder = Path(model)
    if model == EMBEDDED:
        return models.load(), {}
    if (folder / models.TOKENIZER).is_file() and not (folder / "config.json").is_file():
        return models.load(folder), {}
    found = open_pretrained(model)
    return found.model, {"tokenizer": found.tokenizer}
