"""The description of the server's interface is true: of every route, and of whatever it allows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.core.parameters import ParameterLocation
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from starlette.testclient import TestClient

from regard import Recording
from regard.analysis.open_recording import OpenRecording
from regard.explorer.openapi import PATH, description
from regard.explorer.routes import ROUTES
from regard.explorer.state import Explorer
from regard.explorer.typescript import types_file
from web.conftest import serving

TOKEN = "the-token"


def test_every_route_is_described_with_its_parameters(client: TestClient) -> None:
    found = client.get("/api/openapi.json").json()
    assert found == description()
    assert list(found["paths"]) == [*(route.path for route in ROUTES), PATH]
    for route in ROUTES:
        path = route.path
        (get,) = found["paths"][path].values()
        assert list(found["paths"][path]) == [route.method.lower()]
        assert get["operationId"] == route.name
        assert get["summary"]
        own = {one["name"] for one in get["parameters"] if one["in"] == "path"}
        assert own == {part[1:-1] for part in path.split("/") if part.startswith("{")}
        assert all(one["required"] for one in get["parameters"] if one["in"] == "path")


def test_the_types_of_the_page_are_generated() -> None:
    path = Path(__file__).parents[2] / "web/src/client/types.ts"
    assert path.read_text() == types_file(), f"python -m regard.explorer.typescript > {path}"


schema = schemathesis.openapi.from_dict(description())


@pytest.fixture(scope="module")
def own(short_run: Recording, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Explorer]]:
    """A server of its own, in which what is opened stays."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        explorer = Explorer({book.id: book for book in [OpenRecording.of(short_run)]})
        with serving(explorer) as port:
            while not all(one.ended for one in explorer.builders.values()):
                time.sleep(0.05)
            yield port, explorer


def rest(explorer: Explorer) -> None:
    """Until nothing is under way: Hypothesis wants the threads still while it draws."""
    if (job := explorer.jobs.running) is not None and job.thread is not None:
        job.thread.join()
    for one in explorer.builders.values():
        one.wait()


@pytest.fixture
def known(short_run: Recording) -> dict[str, Any]:
    return {"id": short_run.key[:16]}


@schema.parametrize()
@settings(
    max_examples=12,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)
def test_what_is_described_is_what_is_answered(case: Any, own: tuple[int, Explorer], known: dict[str, Any]) -> None:
    """Generated requests, valid and not, are answered as the description says; never by a failure."""
    port, explorer = own
    path = case.meta.components.get(ParameterLocation.PATH)
    good = path is None or path.mode.is_positive
    if good and "id" in case.path_parameters and len(str(case.path_parameters["id"])) % 2:
        case.path_parameters |= known
        for name in ("layer", "head"):
            if isinstance(at := case.path_parameters.get(name), int):
                case.path_parameters[name] = at % 2
    response = case.call(base_url=f"http://127.0.0.1:{port}", headers={"X-Regard-Token": TOKEN})
    rest(explorer)
    # What a schema cannot say is refused too: a map with more rows than queries, a lesson of one word.
    known_better = [positive_data_acceptance]
    if response.status_code == 413:
        known_better.append(negative_data_rejection)
    case.validate_response(response, excluded_checks=known_better)
