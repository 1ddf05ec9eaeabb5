"""The page in a real browser, the network cut: from the whole map down to one weight, which is the library's.

The walk itself is `web/e2e/page.mjs`; what it finds wrong it prints, and that is what fails here.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import regard
from regard.models import load
from walking import in_browser, walk

pytestmark = in_browser

LAYER, HEAD, QUERY = 2, 5, 412

RUN = "import sys; from regard.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """This file itself, as the embedded model reads it."""
    path = tmp_path / "run.safetensors"
    regard.record(load(), Path(__file__).read_text(), to=path, values=True, layer_inputs=True)
    return path


@pytest.fixture
def url(recorded: Path) -> Iterator[str]:
    """The address of `regard explore`, which runs while the test does."""
    command = [sys.executable, "-c", RUN, "explore", str(recorded), "--no-browser"]
    cache = str(recorded.parent / "cache")
    home = {**os.environ, "PYTHONUNBUFFERED": "1", "XDG_CACHE_HOME": cache}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=home) as server:
        assert server.stdout is not None
        said = ""
        for line in server.stdout:
            said += line
            if found := re.search(r"http://127\.0\.0\.1:\d+/\S*token=\S+", line):
                yield found[0]
                break
        else:
            pytest.fail(f"no address was printed: {said!r}")
        server.terminate()


def test_from_the_whole_map_down_to_one_weight(recorded: Path, url: str, tmp_path: Path) -> None:
    """Zoom, click, table, files, lesson, row, link, every key, both painters, and axe on each screen.

    And each number of the lesson, its questions, a text and arrays that are opened from the page, what is
    received, both rows of a comparison, what a screen reader hears, and all of it narrow and dark.
    """
    run = regard.Recording.open(recorded)
    row = run.layer(LAYER).weights[0, HEAD, QUERY, :].double()
    key = int(row[: QUERY - 5].argmax())
    weight = float(row[key])
    assert weight > 1e-4, "a weight that is seen"
    asked = {
        "url": url,
        "recording": _id(url),
        "layer": LAYER,
        "head": HEAD,
        "query": QUERY,
        "key": key,
        "weight": weight,
        "arrays": str(_arrays(tmp_path)),
    }
    shots = walk(tmp_path, "page.mjs", asked, seconds=400)
    assert (shots / "near.png").stat().st_size > 10_000


def _arrays(folder: Path) -> Path:
    """Arrays that a person might have: two heads, forty tokens."""
    made = torch.Generator().manual_seed(5)
    q, k = (torch.randn(2, 40, 8, generator=made).numpy() for _ in range(2))
    np.savez(folder / "arrays.npz", q=q, k=k)
    return folder / "arrays.npz"


def _id(url: str) -> str:
    """The id under which the server has the one recording."""
    from urllib.request import Request, urlopen

    base, token = re.fullmatch(r"(http://[^/]+)/.*token=(\S+)", url).groups()  # type: ignore[union-attr]
    with urlopen(Request(f"{base}/api/recordings", headers={"X-Regard-Token": token})) as answer:
        return json.load(answer)[0]["id"]
