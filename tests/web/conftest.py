"""A small recording, whose layers have pyramids, and the explorer's application over it."""

from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient

from regard import ALiBi, Causal, Dot, Recording, Softmax, Window, record
from regard.analysis import pyramid
from regard.analysis.open_recording import OpenRecording
from regard.explorer import write_page
from regard.explorer.server import Server, application, listening
from regard.explorer.state import Explorer
from regard.nn import MultiHeadAttention, Transformer
from regard.positions import Rotary

PORT, TOKEN = 1234, "the-token"
N = 2500
WORDS = "the river bank was quiet and the money in the bank was safe 🙂".split()


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """A run of so many tokens that its layers have pyramids."""
    return recorded(tmp_path_factory.mktemp("run") / "run.safetensors", N)


def recorded(path: Path, n: int) -> Recording:
    """Three layers: linear biases over all; a window, grouped heads, a soft-cap and a sink; both ways.

    The first turns by position, the second has biases in its projections.
    """
    torch.manual_seed(0)
    layers = [
        MultiHeadAttention(16, 2, mask=Causal(), bias=ALiBi(heads=2), position=Rotary(), qk_norm=torch.nn.RMSNorm),
        MultiHeadAttention(
            16,
            4,
            key_value_heads=2,
            mask=Causal() & Window(40),
            score=Dot(softcap=5.0),
            normalizer=Softmax.with_learned_sink(4),
            projection_bias=True,
        ),
        MultiHeadAttention(16, 2, qk_norm=torch.nn.RMSNorm),
    ]
    model = Transformer(50, layers)
    for layer in layers:  # as if it were trained: at first blocks add nothing, and biases are 0
        torch.nn.init.normal_(layer.output.weight, std=0.2)
        for bias in (part.bias for part in (layer.query, layer.value, layer.output)):
            if bias is not None:
                torch.nn.init.normal_(bias)
    texts = [WORDS[i % len(WORDS)] + " " for i in range(n)]
    ends = [0]
    for text in texts:
        ends.append(ends[-1] + len(text))
    return record(
        model,
        torch.randint(50, (1, n)),
        to=path,
        values=True,
        layer_inputs=True,
        name="tiny",
        tokens=texts,
        text="".join(texts),
        spans=[*itertools.pairwise(ends)],
    )


@pytest.fixture(scope="session")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """The same layers over few tokens."""
    return recorded(tmp_path_factory.mktemp("short") / "run.safetensors", 300)


@pytest.fixture(scope="session")
def explorer(run: Recording) -> Iterator[Explorer]:
    """All that is asked of it, built."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyramid, "LEAST", 100)
        made = Explorer({book.id: book for book in [OpenRecording.of(run)]})
        for one in made.builders.values():
            one.start()
            one.wait()
            assert one.failed is None
    yield made
    made.close()


@pytest.fixture(scope="session")
def client(explorer: Explorer) -> Iterator[TestClient]:
    """Asks as the page does."""
    app = application(explorer, PORT, TOKEN)
    client = TestClient(
        app, f"http://127.0.0.1:{PORT}", headers={"X-Regard-Token": TOKEN}, raise_server_exceptions=True
    )
    # Not entered: what is alive is the explorer's, which other tests share.
    yield client
    client.close()


@contextmanager
def serving(explorer: Explorer) -> Iterator[int]:
    """A real server, in a thread; its port."""
    ear = listening(0)
    port: int = ear.getsockname()[1]
    server = Server(application(explorer, port, TOKEN), explorer)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [ear]})
    thread.start()
    yield port
    server.should_exit = True
    thread.join(10)
    assert not thread.is_alive()
    assert explorer.work.waiting == 0


@pytest.fixture(scope="session")
def port(explorer: Explorer) -> Iterator[int]:
    """Where a real server answers."""
    with serving(explorer) as port:
        yield port


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "regard"


@pytest.fixture
def empty(home: Path) -> Iterator[Explorer]:
    """With nothing open, and a cache folder of its own."""
    made = Explorer({}, models=("python",))
    yield made
    made.close()


@pytest.fixture
def bare(empty: Explorer) -> TestClient:
    app = application(empty, PORT, TOKEN)
    return TestClient(app, f"http://127.0.0.1:{PORT}", headers={"X-Regard-Token": TOKEN})


def refused(response: Any, status: int) -> dict[str, str]:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"argument", "given", "allowed", "remedy"}
    assert all(isinstance(part, str) and part for part in error.values())
    return error


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a page of a recording."""
    folder = tmp_path_factory.mktemp("pages")

    def write(run: Recording, **how: Any) -> Path:
        path = folder / f"{len([*folder.iterdir()])}.html"
        told = write_page(run, path, **how)
        assert told["bytes"] == path.stat().st_size, "what was said before"
        return path

    return write


@pytest.fixture(scope="module")
def same(run: Recording, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """The server's own in another place: what is built beside it is not the server's."""
    path = tmp_path_factory.mktemp("same") / run.path.name
    shutil.copy(run.path, path)
    return Recording.open(path)


@pytest.fixture(scope="module")
def six_layers(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """As large as MiniLM's run over 512 tokens: six layers of twelve heads of 64."""
    torch.manual_seed(0)
    q, k = (torch.randn(6, 1, 12, 512, 64) for _ in range(2))
    path = tmp_path_factory.mktemp("six") / "run.safetensors"
    return Recording.of([*q], [*k], tokens=[f"token{i} " for i in range(512)], to=path)


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """A mask of single bits for each head, and a bias for each pair."""
    torch.manual_seed(1)
    q, k = torch.randn(1, 3, 150, 8), torch.randn(1, 3, 200, 8)
    mask = torch.rand(1, 3, 150, 200) < 0.4
    mask[..., 64:128, :64] = True
    mask[..., 64:128, 64:128] = False
    mask[..., 7, :] = False
    path = tmp_path_factory.mktemp("masked") / "run.safetensors"
    return Recording.of(q, k, mask=mask, bias=torch.randn(1, 1, 150, 200), to=path)
