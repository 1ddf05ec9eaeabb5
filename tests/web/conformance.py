"""The conformance corpus: requests to a small fixed recording, and the responses that every transport must give.

    python -m web.conformance        (in tests/) records the responses anew: after a change that is meant

`corpus/recording.safetensors` has three layers over 40 tokens: a bias by distance, a window with grouped heads, a
soft-cap and a sink, and one without a mask. `corpus/responses.json` has a response for each request.
"""

from __future__ import annotations

import base64
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from regard.analysis.open_recording import OpenRecording
from regard.explorer.api import api_application
from regard.explorer.state import Explorer
from regard.recording import Recording

CORPUS = Path(__file__).parent / "corpus"
RECORDING = CORPUS / "recording.safetensors"
RESPONSES = CORPUS / "responses.json"
TOKENS = 40

OF_RECORDING = (
    "",
    "/tokens?start=3&stop=30",
    "/search?text=bank&from=3",
    "/atlas",
    "/thumbnail/0/1",
    "/thumbnail/1/3",
    "/marginals/0/1",
    "/marginals/1/3",
    "/row/0/1/31",
    "/row/1/2/7",
    "/row/2/0/39",
    "/cell/0/1/31/30",
    "/cell/1/2/31/25",
    "/cell/1/2/31/39",
    "/cell/2/0/0/39",
    "/strongest/0/1?count=20&skip=diagonal",
    "/strongest/1/3?count=7",
    "/map/0/1",
    "/map/1/2?q=4,32&k=0,40&rows=7&cols=9&how=max",
    "/map/2/0?q=0,40&k=3,40&rows=11&cols=13&how=mean",
    "/map/0/0?q=8,40&k=8,40&rows=8&cols=8&how=sum",
)
ELSEWHERE = (
    "/api/recordings",
    "/api/compare?a={id}/0/0&b={id}/0/1&q=5,35&k=0,30&rows=30&cols=15",
    "/api/lesson/words?text=the%20river%20bank&tied=0&causal=1",
    "/api/lesson/words?text=the%20money%20bank&tied=1&causal=0&divisor=1",
    "/api/lesson/context",
)
ERRORS = (
    "/map/9/0",
    "/map/0/2",
    "/row/0/0/40",
    "/cell/0/0/0/40",
    "/map/0/0?q=5,2",
    "/map/0/0?rows=0",
    "/map/0/0?how=median",
    "/strongest/0/0?count=0",
    "/nothing",
)
SERVER_ONLY = ("/api/models", "/api/recordings/{id}/heads/0/31", "/api/recordings/{id}/heads/2/31?component=3")
"""Requests that an offline page cannot answer: it has no models, and no inputs of layers."""


@dataclass(frozen=True)
class Exchange:
    """A request, and the response: JSON, or numbers as base64 with the headers that describe them."""

    path: str
    status: int
    headers: dict[str, str]
    json: Any = None
    numbers: str | None = None

    @classmethod
    def of(cls, path: str, status: int, headers: Mapping[str, str], body: bytes) -> Exchange:
        own = {name.lower(): value for name, value in headers.items() if name.lower().startswith("x-regard")}
        if own:
            return cls(path, status, own, numbers=base64.b64encode(body).decode())
        return cls(path, status, own, json=json.loads(body))


def requests(offline: bool = False) -> list[str]:
    """The paths of all requests; of those that an offline page can answer."""
    of = f"/api/recordings/{Recording.open(RECORDING).key[:16]}"
    paths = [*ELSEWHERE, *(of + path for path in (*OF_RECORDING, *ERRORS)), "/api/recordings/nothing"]
    return [path.replace("{id}", of.rpartition("/")[2]) for path in (*paths, *(() if offline else SERVER_ONLY))]


def corpus(offline: bool = False) -> list[Exchange]:
    """The exchanges of the corpus."""
    exchanges = {one["path"]: Exchange(**one) for one in json.loads(RESPONSES.read_text("utf-8"))}
    return [exchanges[path] for path in requests(offline)]


def assert_conforms(expected: Exchange, actual: Exchange, offline: bool = False) -> None:
    """The same response, but for the last digits of numbers and the wording of an offline page's errors."""
    path = expected.path
    assert actual.status == expected.status, (path, actual.json)
    if expected.status >= 400 and offline:
        assert actual.json["error"].keys() == expected.json["error"].keys(), path
    elif expected.numbers is not None:
        assert actual.numbers is not None, path
        differ = {"x-regard-dtype"} if offline else set[str]()  # a page need not save bytes of thumbnails
        for name in expected.headers.keys() - differ:
            assert actual.headers[name] == expected.headers[name], (path, name)
        a, b = (_numbers(one) for one in (actual, expected))
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=3e-6, err_msg=path)
    else:
        cut = without_inputs if offline else (lambda answer: answer)
        _same(cut(actual.json), cut(expected.json), path)


def without_inputs(answer: Any) -> Any:
    """A response without what layers read, which no page has, and without keys of weight 0: any may be shown."""
    if not isinstance(answer, dict):
        return answer
    if "layers" in answer:
        return {**answer, "layers": [{**layer, "inputs": False} for layer in answer["layers"]]}
    if "row" not in answer:
        return answer
    row, values = answer["row"], answer["values"]
    some = [i for i, weight in enumerate(row["weights"]) if weight > 0]
    values = {**values, **{name: [values[name][i] for i in some] for name in ("keys", "vs")}}
    row = {name: [each[i] for i in some] for name, each in row.items()}
    return {**answer, "inputs": None, "row": row, "values": values}


def _numbers(exchange: Exchange) -> np.ndarray:
    data = base64.b64decode(exchange.numbers or "")
    return np.frombuffer(data, np.dtype(exchange.headers["x-regard-dtype"]).newbyteorder("<")).astype(np.float64)


def _same(actual: Any, expected: Any, at: str) -> None:
    if isinstance(expected, dict):
        assert isinstance(actual, dict), at
        assert actual.keys() == expected.keys(), at
        for name in expected:
            _same(actual[name], expected[name], f"{at}.{name}")
    elif isinstance(expected, list):
        assert len(actual) == len(expected), at
        for i, (a, b) in enumerate(zip(actual, expected, strict=True)):
            _same(a, b, f"{at}[{i}]")
    elif isinstance(expected, float):
        assert actual == pytest.approx(expected, rel=1e-4, abs=4e-6), at
    else:
        assert actual == expected, at


def record_corpus(explorer: Explorer, paths: Sequence[str]) -> list[Exchange]:
    """The responses of the server to the requests."""
    with TestClient(api_application(explorer)) as client:
        responses = [client.get(path) for path in paths]
    return [
        Exchange.of(path, one.status_code, one.headers, one.content) for path, one in zip(paths, responses, strict=True)
    ]


def main() -> None:
    """Record the responses; the recording too, where it is missing."""
    from web.conftest import recorded

    if not RECORDING.is_file():
        CORPUS.mkdir(exist_ok=True)
        recorded(RECORDING, TOKENS)
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copy(RECORDING, folder)  # pyramids are written beside it
        opened = OpenRecording.of(Recording.open(copy))
        explorer = Explorer({opened.id: opened})
        for builder in explorer.builders.values():
            builder.start()
            builder.wait()
        exchanges = [asdict(exchange) for exchange in record_corpus(explorer, requests())]
        explorer.close()
    lines = ",\n".join(json.dumps(one, ensure_ascii=False) for one in exchanges)
    RESPONSES.write_text(f"[\n{lines}\n]\n", "utf-8")


if __name__ == "__main__":
    main()
