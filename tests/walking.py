"""Walks through the page in a real browser: those of `web/e2e`, which node drives."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

WEB = Path(__file__).parents[1] / "web"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NODE = shutil.which("node")

in_node = pytest.mark.skipif(NODE is None, reason="driven by node, which is not here")
in_browser = [
    pytest.mark.slow,
    in_node,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium"),
    pytest.mark.skipif(
        not (
            (WEB.parent / "src/regard/export/static/index.html").exists()
            and (WEB / "node_modules/playwright-core").exists()
        ),
        reason="the page is not built here: make web",
    ),
]


def walk(folder: Path, script: str, *arguments: str | dict[str, Any], seconds: int) -> Path:
    """Run a script of `web/e2e`, all of whose checks must hold; where its pictures are.

    CI keeps them, where it says where; otherwise they lie in `folder`.
    """
    assert NODE is not None and CHROMIUM is not None
    shots = Path(os.environ.get("REGARD_SCREENSHOTS", folder / "shots"))
    told = [one if isinstance(one, str) else json.dumps(one) for one in arguments]
    walked = subprocess.run(
        [NODE, f"e2e/{script}", *told],
        cwd=WEB,
        env={**os.environ, "CHROMIUM": CHROMIUM, "SHOTS": str(shots)},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert walked.returncode == 0, walked.stderr + walked.stdout
    assert "every check holds" in walked.stdout
    return shots
