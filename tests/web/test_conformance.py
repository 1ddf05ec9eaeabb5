"""The server, the notebook and an offline page's worker give the responses of the conformance corpus."""

from __future__ import annotations

import base64
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from regard.analysis.open_recording import OpenRecording
from regard.explorer import write_page
from regard.explorer.api import api_application
from regard.explorer.state import Explorer
from regard.notebook.application_thread import ApplicationThread
from regard.recording import Recording
from walking import in_node
from web.conformance import RECORDING, Exchange, assert_conforms, corpus, record_corpus, requests
from web.test_offline_worker import asked


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """A copy: pyramids are written beside it."""
    path = tmp_path_factory.mktemp("corpus") / RECORDING.name
    shutil.copy(RECORDING, path)
    return Recording.open(path)


@pytest.fixture(scope="module")
def explorer(recording: Recording) -> Iterator[Explorer]:
    opened = OpenRecording.of(recording)
    explorer = Explorer({opened.id: opened})
    for builder in explorer.builders.values():
        builder.start()
        builder.wait()
    yield explorer
    explorer.close()


def test_the_server_conforms(explorer: Explorer) -> None:
    for expected, actual in zip(corpus(), record_corpus(explorer, requests()), strict=True):
        assert_conforms(expected, actual)


def test_the_notebook_conforms(explorer: Explorer) -> None:
    replies: dict[str, Exchange] = {}
    replied = threading.Semaphore(0)

    def reply(head: Mapping[str, Any], body: bytes) -> None:
        path = head["id"]
        replies[path] = Exchange.of(path, head["status"], head["headers"], body)
        replied.release()

    thread = ApplicationThread(api_application(explorer), reply)
    try:
        for path in requests():
            thread.request(path, path)
        for _ in requests():
            assert replied.acquire(timeout=60)
    finally:
        thread.close()
    for expected in corpus():
        assert_conforms(expected, replies[expected.path])


@in_node
@pytest.mark.usefixtures("built_page")
def test_the_worker_of_an_offline_page_conforms(recording: Recording, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    write_page(recording, page, dtype="float32", values=True)
    paths = requests(offline=True)
    for expected, answer in zip(corpus(offline=True), asked(page, paths), strict=True):
        numbers = answer.get("numbers")
        body = base64.b64decode(numbers) if numbers is not None else answer["body"].encode()
        actual = Exchange.of(expected.path, answer["status"], answer["headers"] if numbers else {}, body)
        assert_conforms(expected, actual, offline=True)
