"""The real server: on a socket, with many who ask at once, with some who leave, and ended by Ctrl-C."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from regard import Recording
from regard.analysis.open_recording import OpenRecording
from regard.cli import main
from regard.errors import OptionError
from regard.explorer import work_queue
from regard.explorer.handlers import maps
from regard.explorer.handlers.recordings import progress_events
from regard.explorer.http_errors import HttpError
from regard.explorer.server import listening
from regard.explorer.state import Explorer
from regard.explorer.work_queue import Disconnected, WorkQueue
from web.conftest import serving

TOKEN = "the-token"


def ask(port: int, path: str, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.putrequest("GET", path, skip_host="Host" in headers, skip_accept_encoding=True)
        for name, value in {"X-Regard-Token": TOKEN, **headers}.items():
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_two_hundred_at_once_are_answered_and_right(port: int, run: Recording) -> None:
    place = f"/api/recordings/{run.key[:16]}/map"
    heads = [(0, 0), (0, 1), (1, 0), (1, 3), (2, 1)]

    def one(i: int) -> tuple[int, bytes]:
        layer, head = heads[i % len(heads)]
        return ask(port, f"{place}/{layer}/{head}?q={i},{i + 300}&k=0,300&rows=300&cols=300")

    with ThreadPoolExecutor(200) as many:
        answers = list(many.map(one, range(200)))
    assert [status for status, _ in answers] == [200] * 200
    for i in range(0, 200, 23):
        layer, head = heads[i % len(heads)]
        found = np.frombuffer(answers[i][1], np.float32).reshape(300, 300)
        assert (found == run.layer(layer).weights[0, head, i : i + 300, :300].numpy()).all()


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/assets/../server.py", {}, 404),
        ("/../../../../etc/passwd", {}, 404),
        ("/assets/%2e%2e/%2e%2e/server.py", {}, 404),
        ("//etc/passwd", {}, 404),
        ("/api/../api/recordings", {}, 404),
        ("/API/recordings", {}, 404),
        ("/api/recordings", {"Host": "evil.example"}, 403),
        ("/api/recordings", {"X-Regard-Token": "x"}, 401),
        ("/api/recordings?" + "x" * 20_000, {}, 400),
    ],
)
def test_what_no_browser_would_send(port: int, path: str, headers: dict[str, str], status: int) -> None:
    assert ask(port, path, **headers)[0] == status


def test_only_this_machine_is_listened_to(port: int) -> None:
    with listening(0) as ear:
        assert ear.getsockname()[0] == "127.0.0.1"
    with socket.socket() as other:
        other.settimeout(1)
        assert other.connect_ex(("127.0.0.2", port)) != 0


def test_who_leaves_is_not_worked_for(port: int, run: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, ended = threading.Event(), threading.Event()

    def long(layer: object, view: object, pyramid: object, building: bool, check: maps.Check) -> None:
        begun.set()
        try:
            for _ in range(3000):
                check()
                time.sleep(0.01)
        except Disconnected:
            ended.set()
            raise

    monkeypatch.setattr(maps, "map_tile", long)
    with socket.create_connection(("127.0.0.1", port)) as leaving:
        path = f"/api/recordings/{run.key[:16]}/map/0/0"
        head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nX-Regard-Token: {TOKEN}\r\n\r\n"
        leaving.sendall(head.encode())
        assert begun.wait(10)
        assert not ended.is_set()
    assert ended.wait(10)
    assert ask(port, "/api/recordings")[0] == 200


def test_who_leaves_in_the_middle_of_a_file_leaves_nothing(
    empty: Explorer, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def until(some: bool) -> None:
        for _ in range(2000):
            if some == any((home / "incoming").glob("*/*")):
                return
            time.sleep(0.005)
        raise AssertionError(f"{'nothing' if some else 'something'} is there")

    log = logging.getLogger("uvicorn.error")
    with serving(empty) as port:
        log.addHandler(caplog.handler)
        try:
            with socket.create_connection(("127.0.0.1", port)) as leaving:
                head = (
                    f"POST /api/arrays HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nX-Regard-Token: {TOKEN}\r\n"
                    "Content-Type: application/octet-stream\r\nContent-Length: 1000\r\n\r\n"
                )
                leaving.sendall(f"{head}some".encode())
                until(True)
            until(False)
            assert ask(port, "/api/recordings") == (200, b"[]")
        finally:
            log.removeHandler(caplog.handler)
    assert caplog.text == "", "it is no failure"


def test_too_many_are_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_queue, "MOST_REQUESTS", 3)
    done = threading.Event()
    worked: list[int] = []

    async def never() -> None:
        await asyncio.sleep(100)

    async def main() -> None:
        pool = WorkQueue(1)

        def job(check: maps.Check) -> int:
            done.wait(10)
            worked.append(1)
            return 5

        async def soon() -> None:
            await asyncio.sleep(0.05)

        waiting = [asyncio.ensure_future(pool.run(job, never)) for _ in range(2)]
        leaving = asyncio.ensure_future(pool.run(job, soon))
        await asyncio.sleep(0)
        with pytest.raises(HttpError, match="3 at once") as refused:
            await pool.run(job, never)
        assert refused.value.status == 429
        with pytest.raises(Disconnected):
            await leaving
        done.set()
        assert [await one for one in waiting] == [5, 5]
        for _ in range(500):
            if pool.waiting == 0:
                break
            await asyncio.sleep(0.01)
        assert (pool.waiting, pool.cancelled, worked) == (0, 1, [1, 1])
        assert await pool.run(job, never) == 5
        pool.close()

    asyncio.run(main())


def test_progress_is_told_while_it_is_made(run: Recording) -> None:
    explorer = Explorer({book.id: book for book in [OpenRecording.of(run)]})
    (building,) = explorer.builders.values()

    async def main() -> list[float]:
        told: list[float] = []
        async for event in progress_events(explorer):
            told.append(json.loads(event[6:])["progress"])
            if len(told) < 3:
                building._progress = building._progress._replace(doing="layer", progress=len(told) / 4)
            else:
                building.failed = "enough"
        return told

    assert asyncio.run(main()) == [0.0, 0.25, 0.5]
    explorer.close()


def test_a_taken_port_is_said_with_a_way_out() -> None:
    with listening(0) as ear:
        port = ear.getsockname()[1]
        with pytest.raises(OptionError, match=rf"--port: got {port} \(.*in use\).*free one is taken"):
            listening(port)


@pytest.fixture
def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "XDG_CACHE_HOME": str(home.parent), "OMP_NUM_THREADS": "1", "BROWSER": "true"}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "regard.cli", "explore", *arguments]


def test_the_command_serves_a_text_and_ends_by_ctrl_c(environment: dict[str, str], home: Path, tmp_path: Path) -> None:
    text = tmp_path / "code.py"
    text.write_text("def f(x):\n    return x\n")
    program = subprocess.Popen(
        command(str(text), "--no-browser"), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert program.stdout is not None
    said = ""
    try:
        while not (url := re.search(r"http://127\.0\.0\.1:(\d+)/#token=([\w-]+)", said)):
            line = program.stdout.readline()
            assert line, program.communicate()
            said += line
        port, token = int(url[1]), url[2]
        status, body = ask(port, "/api/recordings", **{"X-Regard-Token": token})
        (line,) = json.loads(body)
        assert (status, line["model"], line["tokens"]) == (200, "python", 10)
        taken = subprocess.run(
            command("a text", "--port", str(port), "--no-browser"),
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert taken.returncode == 2
        assert f"--port: got {port}" in taken.stderr
        program.send_signal(signal.SIGINT)
        rest, errors = program.communicate(timeout=20)
    finally:
        if program.poll() is None:
            program.kill()
            program.communicate()
    assert program.returncode == 0
    assert rest.endswith("ended\n")
    assert errors == ""
    (kept,) = (home / "recordings").glob("*.safetensors")
    assert Recording.open(kept).text == text.read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["missing.safetensors"], "missing.safetensors"),
        (["a text", "--port", "70000"], "--port: got 70000"),
        (["a text", "--model", "./nowhere"], "--model: got ./nowhere"),
    ],
)
def test_what_cannot_be_opened_is_said(
    home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["explore", *arguments, "--no-browser"]) == 2
    assert said in capsys.readouterr().err
