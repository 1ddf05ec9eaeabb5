"""The worker in an offline page, run by node, answers as the server does."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from offline_page import Parsed
from regard import Recording, cli
from walking import NODE, in_node

pytestmark = [in_node, pytest.mark.usefixtures("built_page")]


def asked(path: Path, paths: Sequence[str]) -> list[dict[str, Any]]:
    """What the worker in a page answers, run by node."""
    assert NODE is not None
    done = subprocess.run(
        [NODE, str(Path(__file__).with_name("offline_worker.mjs")), str(path)],
        input=json.dumps(paths),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-500:]
    return json.loads(done.stdout)


def alike(ours: Any, theirs: Any, at: str) -> None:
    """The same but for the last digits of numbers."""
    if isinstance(ours, dict):
        assert isinstance(theirs, dict), at
        assert ours.keys() == theirs.keys(), at
        for name in ours:
            alike(ours[name], theirs[name], f"{at}.{name}")
    elif isinstance(ours, list):
        assert len(ours) == len(theirs), at
        for i, pair in enumerate(zip(ours, theirs, strict=True)):
            alike(*pair, f"{at}[{i}]")
    elif isinstance(ours, float):
        assert ours == pytest.approx(theirs, rel=2e-5, abs=2e-6), at
    else:
        assert ours == theirs, at


def known(answer: Any) -> Any:
    """An answer without what layers read, which no page holds, and without keys of weight 0: any are told."""
    if not isinstance(answer, dict):
        return answer
    if "layers" in answer:
        return {**answer, "layers": [{**one, "inputs": False} for one in answer["layers"]]}
    if "row" not in answer:
        return answer
    row, values = answer["row"], answer["values"]
    some = [i for i, weight in enumerate(row["weights"]) if weight > 0]
    values = {**values, **{name: [values[name][i] for i in some] for name in ("keys", "vs")}}
    row = {name: [each[i] for i in some] for name, each in row.items()}
    return {**answer, "inputs": None, "row": row, "values": values}


WHOLE = [
    "",
    "/tokens?start=10&stop=300",
    "/search?text=bank&from=3",
    "/atlas",
    "/marginals/0/1",
    "/marginals/1/3",
    "/row/0/1/1700",
    "/row/1/2/37",
    "/row/2/0/2499",
    "/cell/0/1/1700/1650",
    "/cell/1/2/1700/1680",
    "/cell/1/2/1700/3",
    "/cell/2/0/0/2499",
    "/strongest/0/1?count=20&skip=diagonal",
    "/strongest/1/3?count=7",
    "/strongest/2/0?count=3",
    *(
        f"/map/{head}?{view}"
        for head in ("0/1", "1/2", "2/0")
        for view in (
            "q=1600,1664&k=1580,1700&rows=64&cols=120",
            "q=100,2113&k=7,1900&rows=11&cols=13&how=mean",
            "q=0,2500&k=0,2500&rows=19&cols=256&how=sum",
            "q=2048,2500&k=2048,2500&rows=113&cols=113&how=max",
        )
    ),
]
"""What is asked of both; map and cell of every kind of layer."""

REFUSED = [
    "/map/9/0",
    "/map/0/2",
    "/row/0/0/2500",
    "/cell/0/0/0/2500",
    "/map/0/0?q=5,2",
    "/map/0/0?rows=0",
    "/map/0/0?how=median",
    "/strongest/0/0?count=0",
    "/nothing",
]


def test_the_worker_answers_as_the_server_does(client: TestClient, same: Recording, made: Callable[..., Path]) -> None:
    of = f"/api/recordings/{same.key[:16]}"
    compared = f"/api/compare?a={same.key[:16]}/0/0&b={same.key[:16]}/0/1&q=50,90&k=0,90&rows=40&cols=45"
    lessons = [
        "/api/lesson/words?text=the%20river%20bank&tied=0&causal=1",
        "/api/lesson/words?text=the%20money%20bank&tied=1&causal=0&divisor=1",
        "/api/lesson/context",
        "/api/lesson/context?layer=3&head=1",
    ]
    paths = ["/api/recordings", *(of + path for path in WHOLE), compared, *lessons]
    found = asked(made(same, dtype="float32", values=True), paths)
    for path, told in zip(paths, found, strict=True):
        answer = client.get(path)
        assert answer.status_code == told["status"] == 200, (path, told, answer.text[:300])
        if "numbers" in told:
            for name in ("shape", "dtype", "exact", "pixel"):
                assert told["headers"][f"x-regard-{name}"] == answer.headers[f"x-regard-{name}"], path
            ours = np.frombuffer(base64.b64decode(told["numbers"]), "<f4")
            theirs = np.frombuffer(answer.content, "<f4")
            np.testing.assert_allclose(ours, theirs, rtol=2e-3 if "sum" in path else 2e-5, atol=3e-6, err_msg=path)
        else:
            alike(known(answer.json()), known(json.loads(told["body"])), path)


def test_the_worker_refuses_as_the_server_does(client: TestClient, same: Recording, made: Callable[..., Path]) -> None:
    of = f"/api/recordings/{same.key[:16]}"
    paths = [*(of + path for path in REFUSED), "/api/recordings/nothing"]
    page_of_one = made(same, heads=[0], layers=[0])
    for path, told in zip(paths, asked(page_of_one, paths), strict=True):
        answer = client.get(path)
        error = json.loads(told["body"])["error"]
        assert told["status"] == answer.status_code, path
        assert error.keys() == answer.json()["error"].keys()
    (told,) = asked(page_of_one, [f"{of}/row/0/1/5"])
    assert told["status"] == 404
    assert json.loads(told["body"])["error"]["argument"] == "head"


def test_two_recordings_are_compared_in_one_page(
    short_run: Recording, masked: Recording, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, paths = tmp_path / "page.html", [str(one.path) for one in (short_run, masked)]
    assert cli.main(["explore", *paths, paths[0], "--out", str(path), "--dtype", "float32"]) == 0
    assert "exact" in capsys.readouterr().out
    ids = [one.key[:16] for one in (short_run, masked)]
    assert [one["id"] for one in Parsed.of(path).about["recordings"]] == ids
    (told,) = asked(path, [f"/api/compare?a={ids[0]}/2/1&b={ids[1]}/0/2&q=5,105&k=0,100&rows=100&cols=100"])
    found = np.frombuffer(base64.b64decode(told["numbers"]), "<f4").reshape(100, 100)
    one, other = short_run.layer(2).weights[0, 1], masked.layer(0).weights[0, 2]
    np.testing.assert_allclose(found, one[5:105, :100] - other[5:105, :100], atol=3e-6)
