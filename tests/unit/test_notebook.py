"""The notebook's widget, kernel side: messages in, the library's numbers out, nothing left when it ends."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import comm
import numpy as np
import pytest
import torch
from comm.base_comm import BaseComm

import regard.notebook
from regard import Causal, Recording, record
from regard.errors import OptionError
from regard.explorer.handlers import lessons, maps
from regard.explorer.work_queue import Disconnected
from regard.export import front_end
from regard.nn import MultiHeadAttention, Transformer
from regard.notebook import Cell, ExplorerWidget

N = 200
INDEX = """<!doctype html><html lang="en"><head><meta charset="utf-8" /><title>regard</title>
<script type="module" crossorigin src="/assets/index.js"></script>
<link rel="icon" href="/assets/icon.svg" /><link rel="stylesheet" crossorigin href="/assets/index.css">
</head><body></body></html>"""


class Line(BaseComm):
    """A line to a front end, which keeps what was sent on it."""

    def __init__(self, *given: Any, **named: Any) -> None:
        self.sent = list[tuple[dict[str, Any], list[bytes], int]]()
        super().__init__(*given, **named)

    def publish_msg(self, msg_type: str, data: Any = None, metadata: Any = None, buffers: Any = None, **_: Any):
        if msg_type == "comm_msg":
            self.sent.append((data, [bytes(one) for one in buffers or []], threading.get_ident()))


class Front:
    """The other end of a widget's line."""

    def __init__(self, widget: ExplorerWidget) -> None:
        self.last, self.line = 0, cast("Line", widget.comm)

    def say(self, buffers: list[bytes] | None = None, **content: Any) -> None:
        self.hear({"method": "custom", "content": {"regard": 1, **content}}, buffers)

    def hear(self, data: dict[str, Any], buffers: list[bytes] | None = None) -> None:
        self.line.handle_msg({"content": {"data": data}, "buffers": buffers or []})

    def answers(self) -> dict[str, tuple[dict[str, Any], bytes]]:
        told = [(data["content"], buffers) for data, buffers, _ in [*self.line.sent] if data["method"] == "custom"]
        return {content["id"]: (content, buffers[0]) for content, buffers in told}

    def ask(self, path: str, **more: Any) -> tuple[dict[str, Any], bytes]:
        self.last += 1
        ident = f"view:{self.last}"
        self.say(id=ident, path=path, **more)
        until(lambda: ident in self.answers())
        return self.answers()[ident]

    def numbers(self, path: str) -> np.ndarray:
        told, body = self.ask(path)
        assert told["status"] == 200, body
        shape = [int(n) for n in told["headers"]["x-regard-shape"].split(",")]
        return np.frombuffer(body, told["headers"]["x-regard-dtype"]).reshape(shape)


def until(holds: Callable[[], Any]) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


def threads() -> set[threading.Thread]:
    return {one for one in threading.enumerate() if one.name.startswith("regard-")}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    torch.manual_seed(0)
    layers = [MultiHeadAttention(32, h, mask=Causal()) for h in (4, 2)]
    path = tmp_path_factory.mktemp("run") / "run.safetensors"
    tokens = [f"t{i}" for i in range(N)]
    return record(Transformer(50, layers), torch.randint(50, (1, N)), to=path, tokens=tokens)


@pytest.fixture(autouse=True)
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A page that is built, lines that are kept, and no thread that stays."""
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text(INDEX)
    for name in ("index.js", "index.css", "icon.svg"):
        (tmp_path / "assets" / name).write_text(f"/* {name} */")
    monkeypatch.setattr(front_end, "STATIC", tmp_path)
    monkeypatch.setattr(comm, "create_comm", Line)
    before = threads()
    yield
    until(lambda: threads() <= before)


@pytest.fixture
def widget(run: Recording) -> Iterator[ExplorerWidget]:
    made = regard.notebook.explore(run)
    yield made
    made.close()


def test_answers_are_the_library_s(run: Recording, widget: ExplorerWidget) -> None:
    front, of = Front(widget), f"/api/recordings/{run.key[:16]}"
    told, body = front.ask("/api/recordings")
    assert (told["status"], told["headers"]["content-type"]) == (200, "application/json")
    assert [one["id"] for one in json.loads(body)] == [run.key[:16]]
    weights = run.layer(1).weights
    np.testing.assert_array_equal(front.numbers(f"{of}/row/1/1/150")[0], weights[0, 1, 150])
    part = front.numbers(f"{of}/map/1/0?q=10,30&k=5,25&rows=20&cols=20&how=max")
    np.testing.assert_array_equal(part, weights[0, 0, 10:30, 5:25])
    cell = json.loads(front.ask(f"{of}/cell/1/0/150/7")[1])
    assert cell["weight"] == pytest.approx(float(weights[0, 0, 150, 7]), rel=1e-5)
    assert (cell["query"]["text"], cell["key"]["text"]) == ("t150", "t7")


def test_refusals_are_answers_too(run: Recording, widget: ExplorerWidget) -> None:
    front = Front(widget)
    told, body = front.ask("/api/recordings/other/atlas")
    assert told["status"] == 404
    assert set(json.loads(body)["error"]) == {"argument", "given", "allowed", "remedy"}
    told, body = front.ask("/api/open", method="POST", buffers=[b'{"text": 5}'], kind="application/json")
    assert 400 <= told["status"] < 500
    assert json.loads(body)["error"]["given"] == "no text"
    assert front.ask("/api/recordings", method="POST")[0]["status"] == 405
    assert front.ask("/api/lesson/words?text=a%20%3Cb%3E&tied=0&causal=1")[0]["status"] == 200


def test_a_defect_is_told_and_logged(
    widget: ExplorerWidget, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lessons, "worked_example_json", lambda *_: 1 / 0)
    told, body = Front(widget).ask("/api/lesson/words?text=a%20b")
    assert told["status"] == 500
    assert "report it" in json.loads(body)["error"]["remedy"]
    assert "ZeroDivisionError" in caplog.text


def test_the_page_is_sent_and_asks_its_parent(run: Recording, widget: ExplorerWidget) -> None:
    front = Front(widget)
    front.say(want="page", id="view:page")
    told, body = front.answers()["view:page"]
    assert told["status"] == 200
    assert b"/* index.js */" in body
    about = re.search(rb'id="regard-about">(.*?)</script>', body)
    assert about is not None
    place = f"atlas?r={run.key[:16]}"
    assert json.loads(about[1]) == {"transport": "parent", "start": place}
    assert widget.place == place


def test_what_nobody_waits_for_ends_without_an_answer(
    run: Recording, widget: ExplorerWidget, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ended = threading.Event(), threading.Event()

    def slow(*given: Any) -> Any:
        begun.set()
        try:
            while True:
                given[-1]()  # whether anybody waits
                time.sleep(0.005)
        except Disconnected:
            ended.set()
            raise

    monkeypatch.setattr(maps, "map_tile", slow)
    front = Front(widget)
    path = f"/api/recordings/{run.key[:16]}/map/0/0?q=0,9&k=0,9&rows=3&cols=3&how=max"
    front.say(id="view:99", path=path)  # it returns at once: the work is elsewhere
    assert begun.wait(30)
    assert front.ask("/api/recordings")[0]["status"] == 200, "others are answered meanwhile"
    front.say(cancel="view:99")
    front.say(cancel="view:unknown")
    assert ended.wait(30)
    assert front.ask("/api/recordings")[0]["status"] == 200
    assert "view:99" not in front.answers()


def test_closing_ends_what_is_under_way(run: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()

    def slow(*given: Any) -> Any:
        begun.set()
        while True:
            given[-1]()
            time.sleep(0.005)

    monkeypatch.setattr(maps, "map_tile", slow)
    before = threads()
    widget = regard.notebook.explore(run)
    front = Front(widget)
    path = f"/api/recordings/{run.key[:16]}/map/0/0?q=0,9&k=0,9&rows=3&cols=3&how=max"
    front.say(id="view:1", path=path)
    assert begun.wait(30)
    assert threads() > before
    widget.close()
    assert threads() <= before
    widget.close()  # once more does nothing
    front.say(id="view:2", path="/api/recordings")
    assert front.answers() == {}


def test_two_widgets_answer_for_themselves(run: Recording, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = Transformer(50, [MultiHeadAttention(32, 2, mask=Causal())])
    other = record(model, torch.randint(50, (1, 30)), to=tmp_path / "other.safetensors")
    widgets = [regard.notebook.explore(one) for one in (run, tmp_path / "other.safetensors")]
    try:
        fronts = [Front(one) for one in widgets]
        for front, recording in zip(fronts, (run, other), strict=True):
            (line,) = json.loads(front.ask("/api/recordings")[1])
            assert line["id"] == recording.key[:16]
        widgets[0].close()
        row = fronts[1].numbers(f"/api/recordings/{other.key[:16]}/row/0/1/20")
        np.testing.assert_array_equal(row[0], other.layer(0).weights[0, 1, 20])
    finally:
        for one in widgets:
            one.close()


def test_python_points_and_is_told(run: Recording, widget: ExplorerWidget) -> None:
    front = Front(widget)
    assert (widget.layer, widget.head, widget.cell) == (0, 0, None)
    widget.go(layer=1, head=1)
    assert widget.place == f"map?r={run.key[:16]}&layer=1&head=1"
    widget.go(query=150, key=7)
    assert (widget.layer, widget.head, widget.cell) == (1, 1, Cell(150, 7))
    widget.go(key=9)
    assert widget.cell == Cell(150, 9)
    updates = [data["state"]["place"] for data, *_ in front.line.sent if data["method"] == "update"]
    assert updates[-1] == widget.place
    # A person goes elsewhere.
    moved = f"row?r={run.key[:16]}&head=3&at=3,4,0.5&cell=12,5&table=1"
    front.hear({"method": "update", "state": {"place": moved}, "buffer_paths": []})
    assert (widget.layer, widget.head, widget.cell) == (0, 3, Cell(12, 5))
    assert widget.cell.query == 12
    widget.go(head=2)
    assert widget.place == f"row?r={run.key[:16]}&head=2&at=3,4,0.5&cell=12,5&table=1&layer=0"
    widget.go(layer=1)  # which has two heads
    assert (widget.layer, widget.head) == (1, 1)
    assert "at=" not in widget.place
    odd = f"atlas?r={run.key[:16]}&cell=5&layer=x"
    front.hear({"method": "update", "state": {"place": odd}, "buffer_paths": []})
    assert (widget.layer, widget.head, widget.cell) == (0, 0, None)
    widget.go(layer=1, query=5, key=2)
    assert (widget.layer, widget.cell) == (1, Cell(5, 2))
    with pytest.raises(Exception, match="read-only"):
        widget.layer = 3


def test_what_is_not_there_is_refused(run: Recording, widget: ExplorerWidget, monkeypatch: pytest.MonkeyPatch) -> None:
    for asked, said in (
        ({"layer": 2}, "0 to 1"),
        ({"layer": 1, "head": 2}, "0 to 1"),
        ({"query": N, "key": 0}, "0 to 199"),
        ({"query": 3}, "query=…, key=…"),
        ({"layer": True}, "True"),
        ({"query": 1, "key": -1}, "-1"),
    ):
        place = widget.place
        with pytest.raises(OptionError, match=said):
            widget.go(**asked)
        assert widget.place == place
    with pytest.raises(OptionError, match="10000 pixels"):
        regard.notebook.explore(run, height=0)
    with pytest.raises(OptionError):
        regard.notebook.explore("/not/there.safetensors")
    monkeypatch.setattr(front_end, "STATIC", Path("/not/there"))
    with pytest.raises(OptionError, match=r"make web|install it anew"):
        regard.notebook.explore(run)


def test_the_lesson_needs_no_recording() -> None:
    widget = regard.notebook.lesson(height=500)
    try:
        assert (widget.place, widget.height) == ("lesson", 500)
        told, body = Front(widget).ask("/api/lesson/words?text=the%20river%20bank&tied=0&causal=1")
        assert told["status"] == 200
        assert json.loads(body)["words"] == ["the", "river", "bank"]
        with pytest.raises(OptionError, match="no map to point at"):
            widget.go(layer=0)
    finally:
        widget.close()


def test_in_a_running_loop_answers_are_sent_by_it(run: Recording) -> None:
    async def notebook() -> None:
        widget = regard.notebook.explore(run)
        front = Front(widget)
        front.say(id="view:1", path="/api/recordings")
        for _ in range(6000):
            if front.answers():
                break
            await asyncio.sleep(0.005)
        assert front.answers()["view:1"][0]["status"] == 200
        assert {thread for *_, thread in front.line.sent} == {threading.get_ident()}
        widget.close()

    asyncio.run(notebook())


def test_messages_of_others_are_not_ours(widget: ExplorerWidget) -> None:
    front = Front(widget)
    front.hear({"method": "custom", "content": {"id": "other:1", "path": "/api/recordings"}})
    front.hear({"method": "custom", "content": "text"})
    front.ask("/api/recordings?")
    assert list(front.answers()) == ["view:1"]


def test_no_server_is_needed_and_without_anywidget_it_says_which_extra() -> None:
    code = """
import sys
sys.modules["uvicorn"] = sys.modules["anywidget"] = None
try:
    import regard.notebook
except Exception as error:
    print(error)
del sys.modules["anywidget"]
import regard.notebook
print(regard.notebook.__all__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said, names = done.stdout.splitlines()
    assert 'pip install "regard[notebook]"' in said
    assert "explore" in names
