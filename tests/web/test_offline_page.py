"""An offline page in a real browser, opened alone from the disk: `web/e2e/offline.mjs`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from offline_page import CODE
from regard import record
from regard.models import load
from walking import in_browser, walk

pytestmark = [*in_browser, pytest.mark.usefixtures("built_page")]


@pytest.mark.parametrize("which", ["embedded", "six layers"])
def test_the_file_opens_alone(
    which: str, tmp_path: Path, made: Callable[..., Path], request: pytest.FixtureRequest
) -> None:
    """From the disk, with no network, down to one weight, which is the library's."""
    if which == "embedded":
        text = CODE
        run, layer, head, query = (record(load(), text, to=tmp_path / "run.safetensors", values=True), 2, 5, 412)
        path, by = made(run, values=True, dtype="float32"), 2e-5
    else:
        run, layer, head, query = request.getfixturevalue("six_layers"), 4, 7, 300
        path, by = made(run), 0.02  # of rounded numbers
    row = run.layer(layer).weights[0, head, query].double()
    key = int(row[: query - 5].argmax())
    asked = {
        "recording": run.key[:16],
        "layer": layer,
        "head": head,
        "query": query,
        "key": key,
        "weight": float(row[key]),
        "by": by,
        "far": which == "embedded",
    }
    walk(tmp_path, "offline.mjs", str(path), asked, seconds=300)
