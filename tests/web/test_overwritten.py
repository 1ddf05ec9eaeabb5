"""A recording's file that is written into while it is open: what is mapped is not told any more."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from starlette.testclient import TestClient

from regard import Recording
from regard.analysis.open_recording import OpenRecording
from regard.explorer.server import application
from regard.explorer.state import Explorer

PORT, TOKEN = 8123, "token"


@pytest.fixture
def run(tmp_path: Path) -> Recording:
    q, k = torch.randn(2, 1, 2, 5, 8)
    return Recording.of(q, k, to=tmp_path / "run.safetensors")


def test_a_file_that_is_written_over_is_refused(run: Recording) -> None:
    """As ``cp other run.safetensors`` does it: reading what was mapped would show another run, or crash."""
    explorer = Explorer({(book := OpenRecording.of(run)).id: book})
    app = application(explorer, PORT, TOKEN)
    with TestClient(app, base_url=f"http://127.0.0.1:{PORT}", headers={"X-Regard-Token": TOKEN}) as client:
        path = f"/api/recordings/{book.id}/row/0/1/3"
        assert client.get(path).status_code == 200
        explorer.builders[book.id].wait()  # nothing reads what is cut
        with run.path.open("r+b") as file:
            file.truncate(100)
        answer = client.get(path)
        assert answer.status_code == 409
        assert answer.json()["error"] == {
            "argument": "recording",
            "given": "run.safetensors, which was written over since it was opened",
            "allowed": "a file that stays as it is",
            "remedy": "Start regard explore again.",
        }
    explorer.close()


def test_a_file_that_is_replaced_or_removed_stays_for_who_has_it_open(run: Recording) -> None:
    weight = run.layer(0).weights[0, 1, 3, 2]
    other = run.path.with_name("other")
    other.write_bytes(b"another")
    other.replace(run.path)
    assert not run.overwritten
    run.path.unlink()
    assert not run.overwritten
    assert torch.equal(run.layer(0).weights[0, 1, 3, 2], weight)
