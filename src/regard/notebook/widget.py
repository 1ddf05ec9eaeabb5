"""The widget: the explorer's page in a frame, whose requests are answered here, and whose place is a trait."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode

import anywidget
import traitlets

from regard.analysis.open_recording import OpenRecording
from regard.errors import OptionError
from regard.explorer.api import api_application
from regard.explorer.state import Explorer
from regard.export import front_end
from regard.notebook.application_thread import ApplicationThread
from regard.recording import Recording

START = "atlas"
_HEIGHTS = range(100, 10_001)


class Cell(NamedTuple):
    """One weight's place."""

    query: int
    key: int


class ExplorerWidget(anywidget.AnyWidget):
    """The explorer in a notebook. Made by `regard.notebook.explore`."""

    _esm = Path(__file__).parent / "widget.js"
    _ending: weakref.finalize[Any, ExplorerWidget] | None = None

    place = traitlets.Unicode().tag(sync=True)
    """Where a person is, as the hash in the address of `regard explore` says it; setting it goes there."""
    height = traitlets.Int().tag(sync=True)
    """In pixels."""

    layer = traitlets.Int(0, read_only=True)
    """The number of the layer that is shown."""
    head = traitlets.Int(0, read_only=True)
    """The number of the head that is shown."""
    cell: Any = traitlets.Any(None, read_only=True, allow_none=True)
    """The weight that is selected, as `Cell`; None where none is."""

    def __init__(self, runs: Sequence[Recording], *, height: int, place: str | None) -> None:
        if type(height) is not int or height not in _HEIGHTS:
            raise OptionError(
                "height", repr(height), f"{_HEIGHTS.start} to {_HEIGHTS.stop - 1} pixels", "Leave it out for 700."
            )
        if place is not None and not isinstance(place, str):
            raise OptionError(
                "place",
                repr(place),
                "the part behind # in the address of regard explore",
                "Leave it out for the atlas.",
            )
        opened = [OpenRecording.of(run) for run in runs]
        if place is None:
            place = START if opened else "open"
        if "r" not in _parameters(place) and opened and place != "lesson":
            place = _with(place, r=opened[0].id)
        self._page = "".join(front_end.html({"transport": "parent", "start": place}, title="regard"))
        self._runs = {recording.id: recording.recording for recording in opened}
        self._explorer = Explorer({recording.id: recording for recording in opened})
        self._loop = _running_loop()
        self._sending = threading.Lock()
        super().__init__(place=place, height=height)
        self._application = ApplicationThread(api_application(self._explorer), self._reply)
        # At the interpreter's end too, where nobody closed it.
        self._ending = weakref.finalize(self, _end, self._application, self._explorer)
        for builder in self._explorer.builders.values():
            builder.start()
        self.on_msg(_on_msg)

    def go(
        self, *, layer: int | None = None, head: int | None = None, query: int | None = None, key: int | None = None
    ) -> None:
        """Show a head, or one of its weights; what is not given stays as it is.

        Raises:
            OptionError: a layer, head, query or key that is not there.
        """
        if not self._runs:
            raise OptionError(
                "go(…)",
                "a widget without a recording",
                "regard.notebook.explore(run)",
                "The lesson has no map to point at.",
            )
        parameters = _parameters(self.place)
        ident = parameters.get("r", "")
        run = self._runs.get(ident)
        if run is None:
            ident, run = next(iter(self._runs.items()))
        number = _bounded("layer", self.layer if layer is None else layer, len(run))
        of = run.layer(number)
        shown = min(self.head, of.heads - 1) if head is None else head
        changes: dict[str, Any] = {"r": ident, "layer": number, "head": _bounded("head", shown, of.heads)}
        if query is not None or key is not None:
            current: Cell | None = self.cell
            if current is None and (query is None or key is None):
                raise OptionError(
                    "go(…)", "a query or a key alone", "both, while no weight is selected", "Say go(query=…, key=…)."
                )
            cell = [
                _bounded(name, getattr(current, name) if given is None else given, most)
                for name, given, most in (("query", query, of.queries), ("key", key, of.keys))
            ]
            changes["cell"] = f"{cell[0]},{cell[1]}"
        screen = self.place.partition("?")[0]
        if screen in ("", "open", "atlas"):
            screen = "map"
        if parameters.get("r") != ident or self.layer != number:
            parameters.pop("at", None)  # a position on a map of another size
        self.place = _with(f"{screen}?{urlencode(parameters)}", **changes)

    def close(self) -> None:
        """End the widget and its threads."""
        if self._ending is not None:  # None where the constructor raised
            self._ending()
        super().close()

    @traitlets.observe("place")
    def _on_place(self, change: Any) -> None:
        parameters = _parameters(change["new"])
        self.set_trait("layer", _number(parameters.get("layer", "0")) or 0)
        self.set_trait("head", _number(parameters.get("head", "0")) or 0)
        pair = [_number(part) for part in parameters.get("cell", "").split(",")]
        cell = [part for part in pair if part is not None]
        self.set_trait("cell", Cell(*cell) if len(cell) == len(pair) == 2 else None)

    def _on_message(self, content: dict[str, Any], buffers: Sequence[Any]) -> None:
        """A message of a view: it requests the page or a path, or cancels a request."""
        ident = str(content.get("id", ""))
        if content.get("want") == "page":
            self._reply({"id": ident, "status": 200, "headers": {}}, self._page.encode())
        elif "cancel" in content:
            self._application.cancel(str(content["cancel"]))
        else:
            body, method = bytes(buffers[0]) if buffers else b"", str(content.get("method", "GET"))
            kind = str(content.get("kind", ""))
            self._application.request(ident, str(content.get("path", "")), method, body, kind)

    def _reply(self, head: dict[str, Any], body: bytes) -> None:
        """Send a response from any thread: on the notebook's own loop where there is one."""
        message = {"regard": 1, **head}
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.send, message, [body])
            return
        with self._sending:
            self.send(message, [body])

    def __repr__(self) -> str:
        return f"ExplorerWidget(place={self.place!r})"


def _on_msg(widget: ExplorerWidget, content: Any, buffers: Sequence[Any]) -> None:
    if isinstance(content, dict) and content.get("regard") == 1:
        widget._on_message(content, buffers)


def _end(application: ApplicationThread, explorer: Explorer) -> None:
    explorer.ended.set()
    application.close()
    explorer.close()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    """The loop that runs in this thread: a notebook's kernel has one, on which its messages are sent."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _parameters(place: str) -> dict[str, str]:
    return dict(parse_qsl(place.lstrip("#").partition("?")[2]))


def _with(place: str, **changes: Any) -> str:
    screen = place.lstrip("#").partition("?")[0]
    return f"{screen}?{urlencode(_parameters(place) | changes, safe=',/')}"


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _bounded(name: str, given: Any, count: int) -> int:
    if type(given) is not int or not 0 <= given < count:
        raise OptionError(f"go({name}=…)", repr(given), f"0 to {count - 1}", "Count from 0.")
    return given
