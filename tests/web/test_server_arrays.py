"""Queries and keys from elsewhere become a map of their weights, or are refused in words."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from starlette.testclient import TestClient

from regard import Causal, Dot, RegardError, Weights
from regard.cli import main
from regard.explorer.server import Server
from regard.explorer.state import Explorer
from regard.recording.array_files import record_arrays
from regard.recording.cached import cached_array_recording
from web.conftest import refused

RNG = np.random.default_rng(0)
Q, K, V = RNG.standard_normal((3, 4, 30, 8)).astype(np.float32)


@pytest.fixture
def client(bare: TestClient) -> TestClient:
    """With nothing open."""
    return bare


def npz(**arrays: Any) -> bytes:
    made = io.BytesIO()
    np.savez(made, **arrays)
    return made.getvalue()


def post(client: TestClient, data: bytes, **query: Any) -> Any:
    kind = {"Content-Type": "application/octet-stream"}
    return client.post("/api/arrays", content=data, headers=kind, params=query)


MASK = RNG.random((30, 30)) < 0.6
MASK[np.arange(30), np.arange(30)] = True
BIAS = RNG.standard_normal((4, 30, 30)).astype(np.float32)
WORDS = [f"w{i} <b>" for i in range(30)]


@pytest.mark.parametrize(
    ("arrays", "query"),
    [
        ({"q": Q, "k": K}, {}),
        ({"q": Q, "k": K, "v": V}, {"causal": 1}),
        ({"q": Q[0], "k": K[0]}, {"scale": 0.5}),
        ({"q": Q[None], "k": K[None, :2], "mask": MASK, "bias": BIAS}, {"causal": 1}),
        ({"q": Q, "k": K, "tokens": np.array(WORDS)}, {"name": "../../mine"}),
        ({"q": Q, "k": K, "tokens": np.array(json.dumps(WORDS))}, {}),
        ({"q": Q.astype(">f8"), "k": np.asfortranarray(K.astype(np.float64))}, {}),
        ({"q": Q.astype(np.float16), "k": K.astype(np.float16)}, {}),
    ],
)
@pytest.mark.parametrize("form", ["npz", "safetensors"])
def test_arrays_become_a_map_of_their_weights(
    client: TestClient, home: Path, arrays: dict[str, Any], query: dict[str, Any], form: str
) -> None:
    if form == "npz":
        data = npz(**arrays)
    else:
        words = arrays.get("tokens")
        told = None if words is None else {"tokens": json.dumps(WORDS)}
        data = save(
            {
                name: torch.from_numpy(np.ascontiguousarray(a, a.dtype.newbyteorder("=")))
                for name, a in arrays.items()
                if name != "tokens"
            },
            told,
        )
    response = post(client, data, **query)
    assert response.status_code == 200, response.text
    (line,) = client.get("/api/recordings").json()
    assert line["id"] == response.json()["id"]
    assert line["name"] == query.get("name", "arrays")
    (kept,) = (home / "recordings").glob("*.safetensors")
    assert kept.name.startswith((".._.._mine-", "arrays-")), "no path is made of a name"
    q, k = (torch.from_numpy(np.array(arrays[name], np.float32)).reshape(1, -1, 30, 8) for name in ("q", "k"))
    mask = torch.from_numpy(MASK) if "mask" in arrays else None
    if "causal" in query:
        mask = Causal() if mask is None else Causal() & mask
    bias = torch.from_numpy(BIAS) if "bias" in arrays else None
    score = Dot(scale=query["scale"]) if "scale" in query else None
    wanted = Weights.of(q, k, mask=mask, bias=bias, score=score)[0]
    for head in range(len(wanted)):
        found = client.get(f"/api/recordings/{line['id']}/map/0/{head}")
        mine = np.frombuffer(found.content, np.float32).reshape(30, 30)
        np.testing.assert_allclose(mine, wanted[head].numpy(), atol=1e-6)
    told = client.get(f"/api/recordings/{line['id']}").json()["layers"][0]
    assert told["values"] == ("v" in arrays)
    texts = client.get(f"/api/recordings/{line['id']}/tokens").json()["texts"]
    assert texts == (WORDS if "tokens" in arrays else [""] * 30)
    assert post(client, data, **query).json()["id"] == line["id"], "the same again is the same"
    assert [*(home / "incoming").iterdir()] == []


class Spell:
    """What does harm where it is unpickled."""

    done: bool = False

    def __reduce__(self) -> Any:
        return setattr, (Spell, "done", True)


def members(**parts: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, data in parts.items():
            archive.writestr(f"{name}.npy", data)
    return made.getvalue()


LIE = io.BytesIO()
np.save(LIE, np.zeros((30, 8), np.float32))
LYING = LIE.getvalue().replace(b"(30, 8)", b"(99, 8)")
OPEN = LIE.getvalue().replace(b"8), }", b"8(, }")

WRONG: list[tuple[bytes, str]] = [
    (b"", "Send its bytes"),
    (b"nonsense, and no more", "which cannot be read"),
    (npz(q=Q, k=K)[:200], "which cannot be read"),
    (npz(q=np.array([Spell()], object), k=K), "whose q holds Python objects; .* Nothing is unpickled"),
    (npz(q=Q), "with q; allowed: q and k, at least"),
    (npz(), "with nothing"),
    (npz(q=Q, k=K, w=K), "with 'w'; allowed: q, k, v, mask, bias, tokens"),
    (npz(q=Q.astype(int), k=K), "whose q is int64"),
    (npz(q=Q, k=K, mask=MASK.astype(np.float32)), "whose mask is float32; allowed: bool for mask"),
    (npz(q=Q, k=K, bias=MASK), "whose bias is bool"),
    (npz(q=Q.astype(complex), k=K), "whose q is complex128"),
    (npz(q=Q[0, 0], k=K), "whose q is 8; allowed: .n, d."),
    (npz(q=Q[None, None], k=K), "whose q is 1×1×4×30×8"),
    (npz(q=Q, k=K[:3]), "heads"),
    (npz(q=Q, k=K[..., :5]), "5"),
    (npz(q=Q, k=K, mask=MASK[:7]), "mask"),
    (npz(q=Q, k=K, tokens=np.array(WORDS[:5])), "5 for 30 queries"),
    (npz(q=Q, k=K, tokens=np.array("[1, 2]")), "no list of words"),
    (npz(q=Q, k=K, tokens=np.arange(30)), "whose tokens are int64"),
    (members(q=LYING, k=LYING), "q is not as large as it says"),
    (members(q=OPEN, k=OPEN), "which cannot be read"),
    (save({"q": torch.zeros(3, 4)}), "q and k, at least"),
    (save({"q": torch.zeros(3, 4), "k": torch.zeros(3, 4), "tokens": torch.zeros(3)}), "in JSON"),
    (save({"layers/0/q": torch.zeros(3, 4)}), "with 'layers/0/q'"),
]


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(("data", "message"), WRONG, ids=range(len(WRONG)))
def test_arrays_that_are_refused(client: TestClient, home: Path, data: bytes, message: str, tmp_path: Path) -> None:
    import re

    error = refused(post(client, data), 400)
    assert re.search(message, f"{error['given']}; allowed: {error['allowed']}. {error['remedy']}")
    assert "allowed:" not in error["given"], "one refusal, not one inside another"
    assert not Spell.done
    assert client.get("/api/recordings").json() == []
    assert [*(home / "incoming").iterdir()] == []
    assert not [*(home / "recordings").glob("*")] if (home / "recordings").exists() else True


PACKED = io.BytesIO()
np.savez_compressed(PACKED, q=Q[:, :3], k=K[:, :3], tokens=np.array(["a", "b", "c"]))
WHOLE = [
    npz(q=Q[:, :3], k=K[:, :3], mask=MASK[:3, :3]),
    PACKED.getvalue(),
    save({"q": torch.from_numpy(Q[:, :3].copy()), "k": torch.from_numpy(K[:, :3].copy())}),
]


@pytest.mark.usefixtures("as_users_run_it")
@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.sampled_from(WHOLE), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6), st.floats(0.5, 1.5)
)
def test_spoilt_files_are_read_or_refused(
    tmp_path: Path, whole: bytes, flips: list[tuple[float, int]], length: float
) -> None:
    data = bytearray(whole[: int(length * len(whole))])
    for place, value in flips:
        data[int(place * (len(data) - 1))] = value
    (tmp_path / "arrays").write_bytes(data)
    with contextlib.suppress(RegardError):
        layer = record_arrays(tmp_path / "arrays", tmp_path / "run", "spoilt", causal=True).layer(0)
        assert layer.weights[:].shape[2:] == (layer.queries, layer.keys)


@pytest.mark.parametrize(
    "query", [{"causal": "yes"}, {"scale": "x"}, {"scale": "nan"}, {"scale": "inf"}, {"rows": "5"}, {"name": ""}]
)
def test_parameters_of_arrays(client: TestClient, query: dict[str, str]) -> None:
    refused(post(client, npz(q=Q, k=K), **query), 400)


def test_a_packed_array_that_unpacks_to_too_much(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    made = io.BytesIO()
    np.savez_compressed(made, q=np.zeros((1000, 100), np.float32), k=K)
    monkeypatch.setattr("regard.recording.array_files.MOST_BYTES", 100_000)
    assert "bytes unpacked" in refused(post(client, made.getvalue()), 400)["given"]


def test_the_command_takes_arrays_and_nothing(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "arrays.npz"
    path.write_bytes(npz(q=Q, k=K))
    served: list[Explorer] = []
    monkeypatch.setattr(Server, "run", lambda self, sockets: served.append(self.explorer))
    monkeypatch.setattr("regard.export.front_end.ensure_built", lambda told: None)
    assert main(["explore", str(path), "--causal", "--scale", "0.3", "--no-browser"]) == 0
    assert main(["explore", "--no-browser"]) == 0
    first, second = served
    ((book,), none) = first.recordings.values(), second.recordings
    assert not none
    weights = book.recording.layer(0).weights[0]
    wanted = Weights.of(torch.from_numpy(Q)[None], torch.from_numpy(K)[None], mask=Causal(), score=Dot(scale=0.3))
    torch.testing.assert_close(weights, wanted[0])
    assert cached_array_recording(path, "arrays.npz", True, 0.3).key == book.recording.key
    assert main(["explore", "some text", "--causal", "--no-browser"]) == 2
    assert "--causal: got no arrays" in capsys.readouterr().err
    assert main(["explore", "none.npz", "--no-browser"]) == 2
    assert "FILE: got none.npz, which is not there" in capsys.readouterr().err
    assert main(["explore", "--out", str(tmp_path / "page.html")]) == 2
    assert "--out: got nothing to write" in capsys.readouterr().err
