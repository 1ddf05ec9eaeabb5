"""Every route of the explorer answers with the library's own numbers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

from regard import DistanceMass, Entropy, MeanDistance, Pooled, Received, Recording, SpanMass, TopK
from regard.analysis.worked_example import Lesson, values
from regard.spec.masks import Everything

N = 2500
HEADS = [(0, 1), (1, 2), (2, 0)]


def get(client: TestClient, path: str, **query: object) -> Any:
    response = client.get(path, params={name: str(value) for name, value in query.items()})
    assert response.status_code == 200, response.text
    return response.json()


def numbers(client: TestClient, path: str, **query: object) -> np.ndarray:
    response = client.get(path, params={name: str(value) for name, value in query.items()})
    assert response.status_code == 200, response.text
    shape = [int(n) for n in response.headers["x-regard-shape"].split(",")]
    return np.frombuffer(response.content, response.headers["x-regard-dtype"]).reshape(shape)


@pytest.fixture
def of(run: Recording) -> str:
    return f"/api/recordings/{run.key[:16]}"


def test_recordings_are_listed_and_described(client: TestClient, run: Recording, of: str) -> None:
    (line,) = get(client, "/api/recordings")
    assert line == {"id": run.key[:16], "name": "run.safetensors", "model": "tiny", "tokens": N, "bytes": run.size}
    told = get(client, of)
    assert told["versions"] == run.versions
    assert (told["exact"], told["error"], told["tokens"]) == (True, "exact", N)
    assert [layer["mask"] for layer in told["layers"]] == ["Causal()", "Causal() & Window(back=40)", None]
    assert [layer["bias"] for layer in told["layers"]] == ["ALiBi(slopes=2 numbers)", None, None]
    assert [layer["score"] for layer in told["layers"]] == ["Dot()", "Dot(softcap=5.0)", "Dot()"]
    second = told["layers"][1]
    assert {name: second[name] for name in ("heads", "groups", "queries", "keys", "size", "values")} == {
        "heads": 4,
        "groups": 2,
        "queries": N,
        "keys": N,
        "size": 4,
        "values": True,
    }


def test_tokens_and_where_a_text_begins(client: TestClient, run: Recording, of: str) -> None:
    assert run.tokens is not None
    assert run.spans is not None
    found = get(client, f"{of}/tokens", start=5, stop=20)
    assert found["texts"] == list(run.tokens[5:20])
    assert found["starts"] == [start for start, _ in run.spans[5:20]]
    places = [i for i, text in enumerate(run.tokens) if text == "bank "]
    assert get(client, f"{of}/search", text="bank")["tokens"] == places
    later = get(client, f"{of}/search", text="nk was", **{"from": 30})["tokens"]
    assert later == [i for i in places if i >= 30 and run.tokens[i + 1] == "was "]
    assert get(client, f"{of}/search", text="🙂 the")["tokens"][0] == 13
    assert get(client, f"{of}/search", text="nowhere")["tokens"] == []


@pytest.mark.parametrize(("layer", "head"), HEADS)
def test_a_fine_map_is_the_weights(client: TestClient, run: Recording, of: str, layer: int, head: int) -> None:
    found = client.get(f"{of}/map/{layer}/{head}?q=700,763&k=650,760&rows=63&cols=110")
    assert found.headers["x-regard-exact"] == "1"
    assert found.headers["x-regard-pixel"] == "1x1 exact"
    mine = np.frombuffer(found.content, np.float32).reshape(63, 110)
    assert (mine == run.layer(layer).weights[0, head, 700:763, 650:760].numpy()).all()
    row = numbers(client, f"{of}/row/{layer}/{head}/1999")
    assert (row == run.layer(layer).weights[0, head, 1999].numpy()).all()
    assert row.shape == (1, N)


@pytest.mark.parametrize("how", ["max", "mean", "sum"])
@pytest.mark.parametrize(("layer", "head"), HEADS)
@pytest.mark.parametrize(
    ("q", "k", "rows", "cols"),
    [
        ((0, N), (0, N), 10, 10),
        ((512, 1536), (0, 1024), 64, 64),  # of the pyramid, its finest cells
        ((1024, 2048), (1024, 2048), 16, 8),  # of higher levels
        ((100, 1111), (903, 1990), 77, 31),  # between cells
        ((2048, N), (2048, N), 29, 29),
    ],
)
def test_a_pooled_map_is_that_of_the_library(
    client: TestClient,
    run: Recording,
    of: str,
    layer: int,
    head: int,
    how: str,
    q: tuple[int, int],
    k: tuple[int, int],
    rows: int,
    cols: int,
) -> None:
    asked = {"q": "{},{}".format(*q), "k": "{},{}".format(*k), "rows": rows, "cols": cols, "how": how}
    found = numbers(client, f"{of}/map/{layer}/{head}", **asked)
    wanted = run.layer(layer).weights.see(Pooled(rows, cols, how, queries=q, keys=k))[0, head].numpy()
    if how == "max":
        assert (found == wanted).all()
    else:
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)
    assert found.max() > 0


def test_a_thumbnail_is_the_whole_map_in_half_precision(client: TestClient, run: Recording, of: str) -> None:
    found = numbers(client, f"{of}/thumbnail/1/3")
    wanted = run.layer(1).weights.see(Pooled(128, 128, "max"))[0, 3].half().numpy()
    assert found.dtype == np.float16
    assert (found == wanted).all()


def test_the_difference_of_two_heads(client: TestClient, run: Recording, of: str) -> None:
    name = run.key[:16]
    box = {"q": "1000,1100", "k": "900,1000", "rows": 50, "cols": 50}
    found = numbers(client, "/api/compare", a=f"{name}/0/0", b=f"{name}/1/2", **box)
    a, b = (numbers(client, f"{of}/map/{head}", **box) for head in ("0/0", "1/2"))
    assert (found == a - b).all()
    assert found.min() < 0 < found.max()


@pytest.mark.parametrize(("layer", "head"), HEADS)
def test_marginals_and_the_atlas(client: TestClient, run: Recording, of: str, layer: int, head: int) -> None:
    one = run.layer(layer)
    passing = Entropy(), Received(), DistanceMass(1), SpanMass((0, 1)), MeanDistance(), TopK(8)
    seen = one.see(*passing)
    received, entropy = numbers(client, f"{of}/marginals/{layer}/{head}")
    np.testing.assert_allclose(received, seen[Received()][0, head].numpy(), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(entropy, seen[Entropy()][0, head].numpy(), rtol=1e-5, atol=1e-6)
    heads = get(client, f"{of}/atlas")["heads"]
    (mine,) = [told for told in heads if (told["layer"], told["head"]) == (layer, head)]
    visible = {0: torch.arange(N) + 1, 1: (torch.arange(N) + 1).clamp(max=41), 2: torch.full((N,), N)}
    seen_keys = visible[layer]
    chooses = seen_keys > 1
    nats = seen[Entropy()][0, head].double()
    wanted = {
        "entropy": nats[chooses] / seen_keys[chooses].double().log(),
        "support": nats.exp()[chooses],
        "first": seen[SpanMass((0, 1))][0, head, chooses, 0],
        "previous": seen[DistanceMass(1)][0, head, chooses],
        "distance": seen[MeanDistance()][0, head, chooses],
        "top": seen[TopK(8)].weights[0, head, chooses].sum(-1),
    }
    for name, numbers_ in wanted.items():
        assert mine[name] == pytest.approx(float(numbers_.double().mean()), rel=1e-5), name
    share = seen[Received()][0, head].double()
    assert mine["received"] == pytest.approx(float(share.max() / share.sum()), rel=1e-4)


def test_the_nearest_head_is_that_of_the_greatest_cosine(client: TestClient, run: Recording, of: str) -> None:
    chosen = [i * N // 256 + N // 256 // 2 for i in range(256)]
    rows = [run.layer(i).weights[0, :, chosen[0] : chosen[-1] + 1] for i in range(3)]
    at = torch.tensor(chosen) - chosen[0]
    flat = torch.cat([one[:, at].flatten(1) for one in rows]).double()
    flat = flat / flat.norm(dim=1, keepdim=True)
    cosines = flat @ flat.T - 2 * torch.eye(len(flat), dtype=torch.float64)
    heads = get(client, f"{of}/atlas")["heads"]
    assert len(heads) == 8
    names = [(told["layer"], told["head"]) for told in heads]
    for told, row in zip(heads, cosines, strict=True):
        near = told["redundancy"]
        assert (near["layer"], near["head"]) == names[int(row.argmax())]
        assert near["similarity"] == pytest.approx(float(row.max()), abs=1e-5)


@pytest.mark.parametrize(("layer", "head"), HEADS)
@pytest.mark.parametrize("skip", ["nothing", "diagonal"])
def test_the_strongest_weights_are_all_there(
    client: TestClient, run: Recording, of: str, layer: int, head: int, skip: str
) -> None:
    weights = run.layer(layer).weights[0, head].numpy().copy()
    if skip == "diagonal":
        np.fill_diagonal(weights, 0)
    flat = weights.ravel()
    among = np.flatnonzero(flat >= np.partition(flat, -150)[-150])
    wanted = among[np.argsort(-flat[among], kind="stable")][:150]
    cells = get(client, f"{of}/strongest/{layer}/{head}", count=150, skip=skip)["cells"]
    assert [(c["query"], c["key"]) for c in cells] == [divmod(int(i), N) for i in wanted]
    assert [c["weight"] for c in cells] == flat[wanted].tolist()


@pytest.mark.parametrize(("layer", "head", "query", "key"), [(0, 1, 400, 17), (1, 3, 77, 60), (2, 1, 5, 2400)])
def test_a_cell_is_worked_through(
    client: TestClient, run: Recording, of: str, layer: int, head: int, query: int, key: int
) -> None:
    found = get(client, f"{of}/cell/{layer}/{head}/{query}/{key}")
    one = run.layer(layer)
    assert run.tokens is not None
    assert found["query"] == {"index": query, "text": run.tokens[query]}
    assert found["key"] == {"index": key, "text": run.tokens[key]}
    group = head // (one.heads // one.k.shape[1])
    q, k = one.q[0, head, query].double(), one.k[0, group, key].double()
    assert (found["q"], found["k"]) == (q.tolist(), k.tolist())
    assert found["products"] == (q * k).tolist()
    assert found["dot"] == pytest.approx(float(q @ k), rel=1e-12)
    assert found["scaled"] == pytest.approx(found["dot"] / len(q) ** 0.5, rel=1e-12)
    capped = found["scaled"] if found["softcap"] is None else found["softcap"]["score"]
    assert found["score"] == pytest.approx(capped + found["bias"], rel=1e-12)
    assert found["exp"] == pytest.approx(np.exp(found["score"] - found["max"]), rel=1e-12)
    assert found["weight"] == one.weights[0, head, query, key].item()
    assert found["exp"] / found["sum"] == pytest.approx(found["weight"], rel=1e-4)
    assert found["max"] + np.log(found["sum"]) == pytest.approx(found["lse"], abs=1e-5)
    assert found["lse"] == one.lse[0, head, query].item()
    shown = found["row"]
    assert key in shown["keys"]
    assert shown["keys"] == sorted(shown["keys"])
    assert (
        shown["weights"]
        == one.weights[0, head, query, shown["keys"][0] :][torch.tensor(shown["keys"]) - shown["keys"][0]].tolist()
    )
    assert int(one.weights[0, head, query].argmax()) in shown["keys"]
    assert one.v is not None
    assert found["values"]["v"] == one.v[0, group, key].double().tolist()
    np.testing.assert_allclose(found["values"]["out"], one.out()[0, head, query].tolist(), rtol=1e-4, atol=1e-5)
    vs = torch.tensor(found["values"]["vs"], dtype=torch.float64)
    assert found["values"]["keys"] == shown["keys"]
    assert torch.equal(vs, one.v[0, group, shown["keys"]].double())
    parts = torch.tensor(shown["weights"], dtype=torch.float64) @ vs
    others = [i for i in range(N) if i not in shown["keys"]]
    rest = one.weights[0, head, query][others].double() @ one.v[0, group, others].double()
    np.testing.assert_allclose(found["values"]["rest"], rest.tolist(), rtol=0, atol=1e-12)
    np.testing.assert_allclose((parts + rest).tolist(), found["values"]["out"], rtol=0, atol=1e-12)
    assert (float(rest.abs().max()) > 1e-3) == (layer != 1), "a window is told whole"
    assert found["allowed"] is True


def test_cells_that_are_special(client: TestClient, of: str) -> None:
    hidden = get(client, f"{of}/cell/0/0/10/11")
    assert (hidden["allowed"], hidden["score"], hidden["exp"], hidden["weight"]) == (False, None, 0, 0)
    assert None in hidden["row"]["scores"]
    capped = get(client, f"{of}/cell/1/0/50/40")
    assert capped["softcap"]["cap"] == 5.0
    assert capped["sink"] == pytest.approx(np.exp(0 - capped["max"]))
    assert get(client, f"{of}/cell/0/0/0/0")["sink"] is None


@pytest.mark.parametrize("tied", [0, 1])
@pytest.mark.parametrize("causal", [0, 1])
def test_words_are_the_lesson_of_regard_learn(client: TestClient, tied: int, causal: int) -> None:
    found = get(client, "/api/lesson/words", text="the river bank", tied=tied, causal=causal, divisor=2)
    from regard.analysis.worked_example import HEADS as CHOSEN

    heads = [maps.tied() if tied else maps for maps in CHOSEN]
    lesson = Lesson.of("the river bank", heads=heads, mask=None if causal else Everything(), divisor=2.0)
    table = found["numbers"]

    def read(rows: list[list[int]]) -> list[list[float]]:
        return [[table[i]["value"] for i in row] for row in rows]

    assert found["words"] == ["the", "river", "bank"]
    assert read(found["out"]) == values(lesson.out).tolist()
    assert read(found["heads"][1]["weights"]) == values(lesson.heads[1].weights).tolist()
    masked = read(found["heads"][0]["masked"])
    assert (masked[0][2] is None) == bool(causal)
    score = table[found["heads"][0]["scores"][2][1]]
    assert score["how"] == "sum of products"
    parts = [table[i]["value"] for i in score["of"]]
    assert score["value"] == sum(a * b for a, b in zip(parts[::2], parts[1::2], strict=True))


def test_progress_is_told_as_events_and_ends(client: TestClient, run: Recording) -> None:
    response = client.get("/api/progress")
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line[6:]) for line in response.text.splitlines() if line]
    assert events == [{"recording": run.key[:16], "doing": "", "progress": 1.0}]
