"""The server: on this machine only, for clients that have the token."""

from __future__ import annotations

import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from regard.errors import OptionError
from regard.explorer.api import api_application, error_response
from regard.explorer.http_errors import HttpError
from regard.explorer.state import Explorer
from regard.export.front_end import STATIC, files

HOST = "127.0.0.1"

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; script-src 'self' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; connect-src 'self'; "
    "worker-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}

_UNBUILT = """<!doctype html><html lang="en"><meta charset="utf-8"><title>regard explore</title>
<body style="font: 16px/1.5 system-ui; max-width: 40em; margin: 4em auto; padding: 0 1em">
<h1>The page is not built</h1>
<p>The server runs, but this checkout has no page yet. In its folder run <code>make web</code>, which
needs Node.js, and start <code>regard explore</code> again. An installed <code>regard</code> brings the page
with it.</p>
<p>What the server answers is described at <code>/api/openapi.json</code>.</p>
"""


def application(explorer: Explorer, port: int, token: str, static: Path = STATIC) -> ASGIApp:
    """The server's application.

    Args:
        explorer: What answers.
        port: Where it will listen: requests to another host or port are not for it.
        token: What each request to /api must carry.
        static: Where the built page is, if it is there.
    """
    page = files(static)

    async def asset(request: Request) -> Response:
        # Looked up in a fixed table: no path is ever built from the request.
        file = page.get(request.path_params["name"])
        if file is None:
            raise HttpError(404, "path", repr(request.url.path[:80]), "a file of the page", "Open /.")
        data, media_type = file
        return Response(data, 200, {"Cache-Control": "no-cache"}, media_type)

    async def index(request: Request) -> Response:
        file = page.get("index.html")
        return HTMLResponse(_UNBUILT if file is None else file[0])

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        for builder in explorer.builders.values():
            builder.start()
        yield
        explorer.close()

    routes = [Route("/", index, methods=["GET"]), Route("/assets/{name}", asset, methods=["GET"])]
    routes += [Route(f"/{name}", _fixed(file), methods=["GET"]) for name, file in page.items() if name != "index.html"]
    return _Guard(api_application(explorer, routes, lifespan), port, token)


class _Guard:
    """Passes on requests from this machine's own browser that have the token, where they are for /api."""

    def __init__(self, app: ASGIApp, port: int, token: str) -> None:
        self.app, self.token = app, token.encode()
        self.hosts = {f"{name}:{port}".encode() for name in (HOST, "localhost")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
                if scope["path"].startswith("/api"):
                    own.append((b"cache-control", b"no-store"))
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        error = self._check(scope)
        if error is None:
            await self.app(scope, receive, sending)
        else:
            await error_response(error)(scope, receive, sending)

    def _check(self, scope: Scope) -> HttpError | None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) != 1 or hosts[0].lower() not in self.hosts:
            given = hosts[0].decode("latin-1")[:80] if hosts else "none"
            return HttpError(
                403,
                "Host",
                repr(given),
                "127.0.0.1 and localhost, with this server's port",
                "Open the URL that regard explore printed.",
            )
        given = [value for name, value in headers if name == b"x-regard-token"]
        if scope["path"].startswith("/api") and not (len(given) == 1 and secrets.compare_digest(given[0], self.token)):
            return HttpError(
                401,
                "X-Regard-Token",
                "another token" if given else "none",
                "the one in the URL that regard explore printed",
                "Open that URL again.",
            )
        return None


def listening(port: int) -> socket.socket:
    """A socket on this machine only; port 0 takes one that is free.

    Raises:
        OptionError: the port is taken, or may not be used.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(256)
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise OptionError(
            "--port", f"{port} ({reason})", "a port that nothing else listens on", "Leave it out: a free one is taken."
        ) from None
    return listener


class Server(uvicorn.Server):
    """uvicorn, which ends the explorer's streams first when it shuts down."""

    def __init__(self, app: ASGIApp, explorer: Explorer) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                lifespan="on",
                ws="none",
                http="h11",
                timeout_graceful_shutdown=2,
                h11_max_incomplete_event_size=16384,
                server_header=False,
                timeout_keep_alive=30,
            )
        )
        self.explorer = explorer

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.explorer.ended.set()
        await super().shutdown(sockets)


def _fixed(file: tuple[bytes, str]) -> Callable[[Request], Any]:
    async def answer(request: Request) -> Response:
        return Response(file[0], 200, media_type=file[1])

    return answer
