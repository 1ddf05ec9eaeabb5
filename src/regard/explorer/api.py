"""The application under /api: for the server, which guards it, and for a notebook in the same process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette import routing
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from regard.errors import RegardError
from regard.explorer import openapi
from regard.explorer.handlers.recordings import NoParameters
from regard.explorer.http_errors import HttpError, error_body
from regard.explorer.request_parameters import parse_parameters
from regard.explorer.responses import to_response
from regard.explorer.routes import ROUTES, Route
from regard.explorer.state import Explorer
from regard.explorer.work_queue import Disconnected


def api_application(
    explorer: Explorer, others: Sequence[routing.Route] = (), lifespan: Callable[[Starlette], Any] | None = None
) -> Starlette:
    """The application without a guard: every client that reaches it is answered."""
    routes = [
        *(routing.Route(route.path, _endpoint(explorer, route), methods=[route.method]) for route in ROUTES),
        routing.Route(openapi.PATH, _description, methods=["GET"]),
    ]
    handlers: dict[Any, Any] = {
        RegardError: _on_regard_error,
        HTTPException: _on_http_exception,
        Disconnected: _on_disconnect,
        ClientDisconnect: _on_disconnect,
        Exception: _on_defect,
    }
    app = Starlette(routes=[*routes, *others], exception_handlers=handlers, lifespan=lifespan)
    app.router.redirect_slashes = False
    return app


def error_response(error: RegardError) -> Response:
    """An error as a response: of its own status, or 400 for those of the library."""
    return JSONResponse(error_body(error), error.status if isinstance(error, HttpError) else 400)


def _endpoint(explorer: Explorer, route: Route) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        parameters = parse_parameters(route.parameters, request.path_params, request.query_params)
        return to_response(await route.handler(explorer, parameters, request))

    return endpoint


async def _description(request: Request) -> Response:
    parse_parameters(NoParameters, {}, request.query_params)
    return JSONResponse(openapi.description())


async def _on_regard_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RegardError)
    return error_response(error)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = repr(request.url.path[:80])
    if error.status_code == 405:
        methods = {method.strip() for method in (error.headers or {}).get("Allow", "").split(",")}
        allowed = ", ".join(sorted(methods - {"HEAD"}))
        remedy = "GET asks and POST opens; nothing can be changed or removed."
        response = error_response(HttpError(405, "method", request.method[:20], allowed, remedy))
        response.headers["Allow"] = allowed
        return response
    return error_response(
        HttpError(error.status_code, "path", path, "what /api/openapi.json describes", "Check its spelling.")
    )


async def _on_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # which nobody receives


async def _on_defect(request: Request, error: Exception) -> Response:
    return error_response(
        HttpError(500, "server", type(error).__name__, "no failures", "This is a defect of regard: please report it.")
    )
