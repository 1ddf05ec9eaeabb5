"""What answers under /api: for the server, which guards it, and for a notebook in the same process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from regard.errors import RegardError
from regard.explorer.http_errors import HttpError, parts
from regard.explorer.routes import Explorer
from regard.explorer.work_queue import Disconnected

ROUTES: tuple[tuple[str, str], ...] = (
    ("/api/recordings", "recordings"),
    ("/api/recordings/{id}", "recording"),
    ("/api/recordings/{id}/tokens", "tokens"),
    ("/api/recordings/{id}/search", "search"),
    ("/api/recordings/{id}/atlas", "atlas"),
    ("/api/recordings/{id}/thumbnail/{layer}/{head}", "thumbnail"),
    ("/api/recordings/{id}/map/{layer}/{head}", "map"),
    ("/api/recordings/{id}/row/{layer}/{head}/{query}", "row"),
    ("/api/recordings/{id}/marginals/{layer}/{head}", "marginals"),
    ("/api/recordings/{id}/strongest/{layer}/{head}", "strongest"),
    ("/api/recordings/{id}/cell/{layer}/{head}/{query}/{key}", "cell"),
    ("/api/recordings/{id}/heads/{layer}/{query}", "heads"),
    ("/api/recordings/{id}/page", "page"),
    ("/api/compare", "compare"),
    ("/api/progress", "progress"),
    ("/api/lesson/words", "words"),
    ("/api/lesson/context", "context"),
    ("/api/models", "models"),
    ("/api/open/{job}", "opened"),
    ("/api/openapi.json", "described"),
)
"""Each path that is asked, and the method of `Explorer` that answers it."""

POSTS: tuple[tuple[str, str], ...] = (
    ("/api/open", "open"),
    ("/api/open/{job}/cancel", "cancel"),
    ("/api/arrays", "arrays"),
)
"""Each path that opens something."""


def api_application(
    explorer: Explorer, others: Sequence[Route] = (), lifespan: Callable[[Starlette], Any] | None = None
) -> Starlette:
    """The application without a guard: whoever reaches it may ask."""
    routes = [
        Route(path, getattr(explorer, name), methods=[method])
        for method, each in (("GET", ROUTES), ("POST", POSTS))
        for path, name in each
    ]
    handlers: dict[Any, Any] = {
        RegardError: _refused,
        HTTPException: _missing,
        Disconnected: _gone,
        ClientDisconnect: _gone,
        Exception: _failure,
    }
    app = Starlette(routes=[*routes, *others], exception_handlers=handlers, lifespan=lifespan)
    app.router.redirect_slashes = False
    return app


def error_response(error: RegardError) -> Response:
    """What a refusal looks like to whoever asked."""
    # What the library itself refuses is the request's fault.
    return JSONResponse(parts(error), error.status if isinstance(error, HttpError) else 400)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RegardError)
    return error_response(error)


async def _missing(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = repr(request.url.path[:80])
    if error.status_code == 405:
        methods = {one.strip() for one in (error.headers or {}).get("Allow", "").split(",")}
        allowed = ", ".join(sorted(methods - {"HEAD"}))
        refused = HttpError(
            405, "method", request.method[:20], allowed, "GET asks and POST opens; nothing can be changed or removed."
        )
        answer = error_response(refused)
        answer.headers["Allow"] = allowed
        return answer
    return error_response(
        HttpError(error.status_code, "path", path, "what /api/openapi.json describes", "Check its spelling.")
    )


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # to nobody


async def _failure(request: Request, error: Exception) -> Response:
    refused = HttpError(
        500, "server", type(error).__name__, "no failures", "This is a defect of regard: please report it."
    )
    return error_response(refused)
