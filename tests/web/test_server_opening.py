"""Texts and arrays are opened from the page: recorded, kept, and refused in words."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.testclient import TestClient

from regard import Recording, models
from regard.analysis.open_recording import OpenRecording
from regard.explorer import uploads
from regard.explorer.http_errors import HttpError
from regard.explorer.server import application
from regard.explorer.state import Explorer
from regard.recording import cached
from regard.recording.cached import cached_text_recording
from regard.system.text_source import TextSource
from tinytext import encoder, save, word_pieces
from web.conftest import refused

PORT, TOKEN = 1234, "the-token"
TEXT = "def f(x):\n    return x\n"


@pytest.fixture
def client(bare: TestClient) -> TestClient:
    """With nothing open."""
    return bare


@pytest.fixture
def explorer(empty: Explorer) -> Explorer:
    """Which answers it."""
    return empty


def begin(client: TestClient, text: str = TEXT, **more: str) -> dict[str, Any]:
    response = client.post("/api/open", json={"text": text, **more})
    assert response.status_code == 202, response.text
    return response.json()


def ended(client: TestClient, job: str) -> Any:
    for _ in range(500):
        response = client.get(f"/api/open/{job}")
        if response.status_code != 202:
            return response
        assert 0 <= response.json()["progress"] < 1
        time.sleep(0.02)
    raise AssertionError("it does not end")


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Recording waits before its first layer until this is set."""
    event, record = threading.Event(), cached.record

    def waiting(*given: Any, progress: Callable[[Any], None], **more: Any) -> Recording:
        def told(now: Any) -> None:
            assert event.wait(20)
            progress(now)

        return record(*given, progress=told, **more)

    monkeypatch.setattr(cached, "record", waiting)
    yield event
    event.set()


def test_a_text_is_recorded_kept_and_open(client: TestClient, explorer: Explorer, home: Path) -> None:
    assert client.get("/api/recordings").json() == []
    told = begin(client)
    assert set(told) == {"job", "progress", "doing"}
    response = ended(client, told["job"])
    assert response.status_code == 200, response.text
    (line,) = client.get("/api/recordings").json()
    assert response.json() == {"job": told["job"], "id": line["id"]}
    told = line["name"], line["model"], line["tokens"]
    assert told == ("def f(x): return x", "python", 10)
    (kept,) = (home / "recordings").glob("*.safetensors")
    run = Recording.open(kept)
    assert run.text == TEXT
    layers = client.get(f"/api/recordings/{line['id']}").json()["layers"]
    assert all(layer["values"] and layer["inputs"] for layer in layers)
    explorer.builders[line["id"]].wait()
    assert len(client.get(f"/api/recordings/{line['id']}/atlas").json()["heads"]) == 30
    again = ended(client, begin(client)["job"]).json()
    assert again["id"] == line["id"]
    assert len(client.get("/api/recordings").json()) == 1, "and it was not recorded again"
    assert [*(home / "recordings").glob("*.safetensors")] == [kept]


def test_long_texts_are_kept_without_what_layers_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached, "MOST_TOKENS", 9)
    run = cached_text_recording(TextSource("long", TEXT, len(TEXT)), "python")
    assert run.layer(0).v is not None
    assert run.layer(0).inputs is None
    (home / "recordings" / run.path.name).write_bytes(b"damaged")
    monkeypatch.setattr(cached, "MOST_TOKENS", 10)
    assert cached_text_recording(TextSource("long", TEXT, len(TEXT)), "python").layer(0).inputs is not None


def test_one_at_a_time_and_progress_is_told(client: TestClient, explorer: Explorer, held: threading.Event) -> None:
    first = begin(client)
    error = refused(client.post("/api/open", json={"text": "x = 1"}), 429)
    assert error["allowed"] == "one at a time"
    assert client.get(f"/api/open/{first['job']}").status_code == 202
    threading.Timer(0.3, held.set).start()
    lines = [line[6:] for line in client.get("/api/progress").text.splitlines() if line]
    events = [json.loads(line) for line in lines]
    assert {"job": first["job"], "doing": "opening the model", "progress": 0.0} in events
    assert ended(client, first["job"]).status_code == 200
    assert begin(client, "x = 1")["job"] != first["job"]


def test_a_job_can_be_cancelled(client: TestClient, explorer: Explorer, held: threading.Event, home: Path) -> None:
    job = begin(client)["job"]
    for cancelled in (True, False):
        told = client.post(f"/api/open/{job}/cancel").json()
        assert told == {"job": job, "cancelled": cancelled}
    assert refused(ended(client, job), 409)["argument"] == "job"
    assert "ends after its layer" in refused(client.post("/api/open", json={"text": "x"}), 429)["given"]
    held.set()
    thread = explorer.jobs.job(job).thread
    assert thread is not None
    thread.join(20)
    assert refused(client.get(f"/api/open/{job}"), 409)
    assert client.get("/api/recordings").json() == []
    assert [*(home / "recordings").iterdir()] == [], "nothing is left"
    done = begin(client)["job"]
    assert ended(client, done).status_code == 200
    assert client.post(f"/api/open/{done}/cancel").json() == {"job": done, "cancelled": False}


def test_the_end_cancels_what_is_recorded(explorer: Explorer, held: threading.Event, home: Path) -> None:
    job = explorer.jobs.start(TEXT, "python")
    threading.Timer(0.2, held.set).start()
    explorer.close()
    assert job.ended
    assert [*(home / "recordings").iterdir()] == []


@pytest.mark.parametrize("error", [ValueError("no such\nthing"), MemoryError()])
def test_what_a_model_fails_on_is_said(client: TestClient, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def failing(*given: Any, **more: Any) -> Recording:
        raise error

    monkeypatch.setattr(cached, "record", failing)
    told = refused(ended(client, begin(client)["job"]), 400)
    assert (str(error).split("\n")[0] or "MemoryError") in told["given"]


def test_models_are_those_that_were_named(home: Path, tmp_path: Path) -> None:
    explorer = Explorer({}, models=("the model",))
    client = TestClient(
        application(explorer, PORT, TOKEN), f"http://127.0.0.1:{PORT}", headers={"X-Regard-Token": TOKEN}
    )
    told = client.get("/api/models").json()
    assert [one["name"] for one in told["models"]] == ["python", "the model"]
    assert told["default"] == "the model"
    secret = tmp_path / "model"
    secret.mkdir()
    for model in (str(secret), "../python", "./python", "python/", "gpt2", "", "PYTHON", "python\0"):
        error = refused(client.post("/api/open", json={"text": TEXT, "model": model}), 400)
        assert error["allowed"] == "python, the model"
    assert ended(client, begin(client, model="python")["job"]).status_code == 200
    said = refused(ended(client, begin(client)["job"]), 400)
    assert said["argument"] == "--model", "which is not there"
    explorer.close()


def test_a_model_of_transformers_reads_what_it_has_positions_for(home: Path, tmp_path: Path) -> None:
    folder = str(save(tmp_path / "bert", encoder(), word_pieces()))
    explorer = Explorer({}, models=(folder,))
    client = TestClient(
        application(explorer, PORT, TOKEN), f"http://127.0.0.1:{PORT}", headers={"X-Regard-Token": TOKEN}
    )
    opened = ended(client, begin(client, "the bank lent the city the money")["job"])
    assert opened.status_code == 200, opened.text
    told = client.get(f"/api/recordings/{opened.json()['id']}").json()
    assert told["model"] == folder
    assert len(told["layers"]) == 2
    assert all(layer["inputs"] and layer["values"] for layer in told["layers"])
    said = refused(ended(client, begin(client, "the bank " * 500)["job"]), 400)
    assert "positions of" in said["allowed"]
    explorer.close()


BODIES = [
    (b"", 400),
    (b"{", 400),
    (b"[]", 400),
    (b'"text"', 400),
    (b"{}", 400),
    (b'{"text": 5}', 400),
    (b'{"text": ""}', 400),
    (b'{"text": NaN}', 400),
    (b'{"text": "a", "path": "/etc/passwd"}', 400),
    (b'{"text": "a", "model": 5}', 400),
    (b'{"text": "\\ud800"}', 400),
    (b"\xff\xfe", 400),
    (b"[" * 100_000, 400),
    (b'{"text": "' + b"a" * 2_000_001 + b'"}', 413),
]


@pytest.mark.parametrize(("body", "status"), BODIES, ids=range(len(BODIES)))
def test_a_text_comes_in_json(client: TestClient, body: bytes, status: int) -> None:
    kind = {"Content-Type": "application/json; charset=utf-8"}
    refused(client.post("/api/open", content=body, headers=kind), status)


@pytest.mark.parametrize("path", ["/api/open", "/api/arrays"])
@pytest.mark.parametrize("kind", ["", "text/plain", "multipart/form-data", "application/x-www-form-urlencoded"])
def test_what_a_form_of_another_page_could_send_is_refused(client: TestClient, path: str, kind: str) -> None:
    error = refused(client.post(path, content=b"{}", headers={"Content-Type": kind}), 415)
    assert error["argument"] == "Content-Type"
    bare = TestClient(client.app, f"http://127.0.0.1:{PORT}")
    refused(bare.post(path, json={"text": TEXT}), 401)


@pytest.mark.parametrize("declared", [True, False])
def test_too_much_is_not_read(client: TestClient, home: Path, monkeypatch: pytest.MonkeyPatch, declared: bool) -> None:
    monkeypatch.setattr(uploads, "MOST_FILE", 1000)

    def parts() -> Iterator[bytes]:
        for _ in range(10):
            yield b"x" * 400

    kind = {"Content-Type": "application/octet-stream"}
    if declared:
        kind["Content-Length"] = "4000"
    error = refused(client.post("/api/arrays", content=parts(), headers=kind), 413)
    assert "1,000" in error["allowed"]
    assert [*(home / "incoming").iterdir()] == []
    assert client.get("/api/recordings").json() == []


def test_a_length_that_is_too_much_is_refused_before_anything_is_read() -> None:
    async def receive() -> Any:
        raise AssertionError("it was read")

    headers = [(b"content-type", b"application/json"), (b"content-length", b"99999999")]
    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
    with pytest.raises(HttpError, match="99,999,999 bytes or more"):
        asyncio.run(uploads.read_body(request, "application/json", 1000))


@pytest.mark.parametrize("path", ["/api/open", "/api/arrays", "/api/open/x/cancel"])
def test_what_opens_is_not_asked_for(client: TestClient, path: str) -> None:
    response = client.put(path)
    refused(response, 405)
    assert response.headers["allow"] == "POST"
    refused(client.post("/api/open/x/cancel"), 404)
    refused(client.get("/api/open/x"), 404)


def test_an_open_recording_is_not_opened_twice(home: Path, run: Recording) -> None:
    explorer = Explorer({book.id: book for book in [OpenRecording.of(run)]})
    assert explorer.add(Recording.open(run.path)) == run.key[:16]
    assert len(explorer.recordings) == 1
    assert explorer.jobs.models == ("python",)
    assert models.load().model is not None
    explorer.close()


def test_a_cache_that_cannot_be_made_is_said(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is opened from the page is kept there: a text, and arrays."""
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    kind = {"Content-Type": "application/octet-stream"}
    for answer in (ended(client, begin(client)["job"]), client.post("/api/arrays", content=b"arrays", headers=kind)):
        error = refused(answer, 400)
        assert error["argument"] == "cache"
        assert "which cannot be made (Not a directory)" in error["given"]
        assert error["remedy"] == "Set XDG_CACHE_HOME to one."
