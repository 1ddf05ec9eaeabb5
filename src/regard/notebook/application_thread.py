"""Runs an application in this process, on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from starlette.types import ASGIApp, Message, Scope

Reply = Callable[[dict[str, Any], bytes], None]
"""Takes the id, status and headers of a response, and its body."""

SERVER = "notebook"


class ApplicationThread:
    """An event loop in a thread, on which an application runs, so that the kernel's own loop stays free."""

    def __init__(self, app: ASGIApp, reply: Reply) -> None:
        self._app, self._reply = app, reply
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="regard-notebook", daemon=True)
        self._thread.start()

    def request(self, ident: str, path: str, method: str = "GET", body: bytes = b"", kind: str = "") -> None:
        """Send a request; `reply` is called with its response."""
        self._start(self._respond(ident, path, method, body, kind), ident)

    def cancel(self, ident: str) -> None:
        """Cancel a request: there will be no reply."""
        self._call(lambda: self._tasks[ident].cancel() if ident in self._tasks else None)

    def close(self) -> None:
        """End all requests, and the thread."""
        if self._thread.is_alive():
            self._call(self._loop.stop)
            self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.run_until_complete(self._cancel_all())
        self._loop.close()

    async def _cancel_all(self) -> None:
        """Cancel the requests that are under way, and wait for them."""
        tasks = [*self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _call(self, function: Callable[[], Any]) -> None:
        if self.alive and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function)

    def _start(self, work: Coroutine[Any, Any, None], ident: str) -> None:
        def begin() -> None:
            task = self._loop.create_task(work)
            self._tasks[ident] = task
            task.add_done_callback(lambda _: self._tasks.pop(ident, None))

        if self.alive and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(begin)
        else:
            work.close()

    async def _respond(self, ident: str, path: str, method: str, body: bytes, kind: str) -> None:
        scope, disconnected = _scope(path, method, kind, len(body)), asyncio.Event()
        waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        status, headers, parts = 0, dict[str, str](), list[bytes]()

        async def receive() -> Message:
            if waiting:
                return waiting.pop()
            await disconnected.wait()  # a cancelled task ends here
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            nonlocal status, headers
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = _header_texts(message["headers"])
            elif message["type"] == "http.response.body":
                parts.append(message.get("body", b""))

        try:
            await self._app(scope, receive, send)
        except Exception:  # the page has a response of status 500
            logging.getLogger(__name__).exception("%s %s", method, path)
        self._reply({"id": ident, "status": status, "headers": headers}, b"".join(parts))


def _scope(path: str, method: str, kind: str, size: int) -> Scope:
    name, _, query = path.partition("?")
    headers = [(b"host", SERVER.encode()), (b"content-length", str(size).encode())]
    if kind:
        headers.append((b"content-type", kind.encode("latin-1")))
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "method": method,
        "path": unquote(name),
        "raw_path": name.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": headers,
        "client": None,
        "server": (SERVER, None),
    }


def _header_texts(headers: Sequence[tuple[bytes, bytes]]) -> Mapping[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}
