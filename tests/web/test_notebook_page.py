"""The widget's front end in a real browser, bridged to a widget in this process: there and back.

The walk is `web/e2e/notebook.mjs`. A notebook's part is played by a few lines of HTTP: what anywidget's model
would send goes to the widget's line, and what the widget sends is waited for by the page.
"""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import comm
import pytest
import torch
from comm.base_comm import BaseComm

import regard.notebook
from regard import Causal, Recording, record
from regard.nn import MultiHeadAttention, Transformer
from regard.notebook import ExplorerWidget
from walking import in_browser, walk

pytestmark = in_browser

N, HEIGHT = 300, 620
WIDGET = Path(regard.notebook.__file__).parent / "widget.js"

# anywidget's model, as far as widget.js uses it. Messages go one after the other, as on a kernel's line.
NOTEBOOK = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><body>
<script type="module">
import widget from "/widget.js";
const theme = new URLSearchParams(location.search + location.hash).get("theme");
if (theme) document.body.dataset.jpThemeLight = theme === "light";
document.body.style.background = theme === "dark" ? "#111" : "#fff";
const state = await (await fetch("/state")).json(), changed = new Set(), listeners = [];
const emit = (name, ...given) => {
  for (const one of [...listeners]) if (one.name === name) one.heard(...given);
};
const put = (name, value) => state[name] !== value && ((state[name] = value), emit(`change:${name}`));
let line = Promise.resolve();
const post = (message) => fetch("/up", { method: "POST", body: JSON.stringify(message) });
const up = (message) => (line = line.then(() => post(message)));
const text = (buffer) => btoa(String.fromCharCode(...new Uint8Array(buffer)));
const model = {
  get: (name) => state[name],
  set(name, value) { changed.add(name); put(name, value); },
  save_changes() {
    const news = Object.fromEntries([...changed].map((name) => [name, state[name]]));
    changed.clear();
    up({ method: "update", state: news, buffer_paths: [], buffers: [] });
  },
  send: (content, _, buffers = []) => up({ method: "custom", content, buffers: buffers.map(text) }),
  on: (name, heard) => listeners.push({ name, heard }),
  off: (name, heard) => listeners.splice(listeners.findIndex((one) => one.heard === heard), 1),
};
globalThis.listening = () => listeners.length;
const el = document.body.appendChild(document.createElement("div"));
let at = state.sent;
globalThis.remove = widget.render({ model, el });
for (;;) {
  for (const { data, buffers } of await (await fetch(`/down?${at}`)).json()) {
    at += 1;
    if (data.method === "update") Object.entries(data.state).forEach(([name, value]) => put(name, value));
    // As Jupyter gives them: a part of a larger buffer.
    else emit("msg:custom", data.content, buffers.map((one) => {
      const whole = Uint8Array.from("12345678" + atob(one), (c) => c.charCodeAt(0));
      return new DataView(whole.buffer, 8);
    }));
  }
}
</script>"""


class Line(BaseComm):
    """A line that keeps what the widget sends, for as many as read it."""

    def __init__(self, *given: Any, **named: Any) -> None:
        self.sent, self.more = list[dict[str, Any]](), threading.Condition()
        super().__init__(*given, **named)

    def publish_msg(self, msg_type: str, data: Any = None, metadata: Any = None, buffers: Any = None, **_: Any) -> None:
        if msg_type == "comm_msg":
            text = [base64.b64encode(bytes(one)).decode() for one in buffers or []]
            with self.more:
                self.sent.append({"data": data, "buffers": text})
                self.more.notify_all()

    def after(self, count: int) -> list[dict[str, Any]]:
        """What comes behind so many messages, waited for a little."""
        with self.more:
            self.more.wait_for(lambda: len(self.sent) > count, 5)
            return self.sent[count:]


def notebook(widget: ExplorerWidget, line: Line, run: Recording) -> type[BaseHTTPRequestHandler]:
    kernel = threading.Lock()  # a kernel does one thing at a time

    def told() -> dict[str, Any]:
        return {
            "place": widget.place,
            "height": widget.height,
            "sent": len(line.sent),
            "layer": widget.layer,
            "head": widget.head,
            "cell": widget.cell,
        }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            if path == "/widget.js":
                self.give(WIDGET.read_bytes(), "text/javascript")
            elif path == "/down":
                self.give(json.dumps(line.after(int(query))).encode())
            elif path == "/state":
                with kernel:
                    self.give(json.dumps(told()).encode())
            else:
                self.give(NOTEBOOK.encode(), "text/html")

        def do_POST(self) -> None:
            given = json.loads(self.rfile.read(int(self.headers["content-length"])))
            answer: Any = None
            with kernel:
                if self.path == "/up":
                    buffers = [base64.b64decode(one) for one in given.pop("buffers")]
                    line.handle_msg({"content": {"data": given}, "buffers": buffers})
                elif self.path == "/go":
                    widget.go(**given)
                elif self.path == "/weight":
                    place = (0, given["head"], *given["cell"])
                    answer = {"weight": float(run.layer(given["layer"]).weights[place])}
            self.give(json.dumps(answer).encode())

        def give(self, data: bytes, kind: str = "application/json") -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # a page that was closed waits no longer
                self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    return Handler


@pytest.fixture
def run(tmp_path: Path) -> Recording:
    torch.manual_seed(0)
    layers = [MultiHeadAttention(32, 4, mask=Causal(), qk_norm=torch.nn.RMSNorm) for _ in range(2)]
    tokens = [f"w{i} " for i in range(N)]
    return record(
        Transformer(50, layers), torch.randint(50, (1, N)), to=tmp_path / "run.safetensors", tokens=tokens, values=True
    )


@pytest.fixture
def served(run: Recording, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a page that plays a notebook with one widget in it."""
    monkeypatch.setattr(comm, "create_comm", Line)
    widget = regard.notebook.explore(run, height=HEIGHT)
    assert isinstance(widget.comm, Line)
    server = ThreadingHTTPServer(("127.0.0.1", 0), notebook(widget, widget.comm, run))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/?token=none"
    server.shutdown()
    thread.join()
    server.server_close()
    widget.close()


def test_the_widget_shows_goes_and_reports(run: Recording, served: str, tmp_path: Path) -> None:
    """Atlas, a weight that Python points at, a key and a click that it is told of, both themes, two views."""
    layer, head, query, key = 1, 2, 200, 60
    asked = {
        "url": served,
        "height": HEIGHT,
        "layer": layer,
        "head": head,
        "query": query,
        "key": key,
        "weight": float(run.layer(layer).weights[0, head, query, key]),
    }
    walk(tmp_path, "notebook.mjs", asked, seconds=200)
