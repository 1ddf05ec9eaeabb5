"""A recording as one file: its size is known before, and every weight follows from its arrays.

`tests/offline_page.py` works weights out of a page by the formula; `test_offline_worker.py` asks the worker.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

from offline_page import CODE, Parsed
from regard import Additive, Recording, Sigmoid, cli, record
from regard.analysis import pyramid
from regard.analysis.pyramid_builder import PyramidBuilder
from regard.analysis.report_highlights import highlighted_heads
from regard.errors import OptionError
from regard.explorer import write_page
from regard.explorer.state import Explorer
from regard.export import front_end, offline_page, options
from regard.integrations.opening import open_model
from regard.models import load
from regard.system.text_source import TextSource
from reports import report_of

pytestmark = pytest.mark.usefixtures("built_page")


@pytest.mark.parametrize(("layer", "heads"), [(0, [0, 1]), (1, [0, 1, 2, 3]), (2, [1])])
def test_weights_follow_from_what_a_page_holds(
    short_run: Recording, made: Callable[..., Path], layer: int, heads: list[int]
) -> None:
    """Linear biases; a window, grouped heads, a soft-cap and a sink; both ways: each exactly as recorded."""
    parsed = Parsed.of(made(short_run, layers=layer, heads=heads, dtype="float32"))
    assert parsed.run["recording"]["error"] == "exact"
    assert [one["index"] for one in parsed.run["recording"]["layers"]] == [layer]
    (facts,) = parsed.run["layers"]
    assert facts["kept"] == heads
    for head in heads:
        found = parsed.weights(layer, head)
        np.testing.assert_allclose(found, short_run.layer(layer).weights[0, head].double(), atol=3e-6)


def test_masks_of_bits_and_biases_for_each_pair(masked: Recording, made: Callable[..., Path]) -> None:
    parsed = Parsed.of(made(masked))
    assert {0, 1} < set(np.unique(parsed.array(0, "kinds"))), "empty, full and mixed tiles"  # type: ignore[arg-type]
    for head in range(3):
        found = parsed.weights(0, head)
        np.testing.assert_allclose(found, masked.layer(0).weights[0, head].double(), atol=2e-6)
        assert (found[7] == 0).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_rounded_numbers_have_their_own_sums_and_a_stated_error(
    short_run: Recording, made: Callable[..., Path], dtype: str
) -> None:
    parsed = Parsed.of(made(short_run, dtype=dtype))
    said = parsed.run["recording"]
    assert not said["exact"]
    stated = float(said["error"].split("within ")[1].split(" ")[0])
    apart = 0.0
    rows = [(i + 1) * short_run.layer(0).queries // 16 - 1 for i in range(16)]
    for layer in short_run:
        for head in range(layer.heads):
            found = parsed.weights(layer.number, head)
            if layer.number != 1:  # whose sink takes a part
                np.testing.assert_allclose(found.sum(-1), 1, atol=2e-5)
            live = layer.weights[0, head].double().numpy()
            apart = max(apart, float(np.abs(found[rows] - live[rows]).max()))
    assert apart == pytest.approx(stated, rel=0.06), "of as many rows as it says"


@pytest.mark.parametrize("least", [pyramid.LEAST, 100])
def test_statistics_and_coarse_maps_come_along(
    short_run: Recording, made: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, least: int
) -> None:
    """Coarse maps by the kernels, and from a pyramid where there is one."""
    monkeypatch.setattr(options, "MOST_DIRECT", 200 * 200)
    monkeypatch.setattr(pyramid, "LEAST", least)
    parsed = Parsed.of(made(short_run, layers=[0]))
    (facts,) = parsed.run["layers"]
    weights = short_run.layer(0).weights[0, 1].double().numpy()
    received, entropy = parsed.array(0, "received"), parsed.array(0, "entropy")
    assert received is not None
    assert entropy is not None
    np.testing.assert_allclose(received[1], weights.sum(0), rtol=1e-4)
    plain = -(weights * np.log(np.where(weights > 0, weights, 1))).sum(-1)
    np.testing.assert_allclose(entropy[1], plain, atol=1e-4)
    edges = np.arange(0, len(weights), facts["cell"])
    assert (facts["rows"], facts["cols"]) == (len(edges), len(edges))
    for how, fold in (("max", np.maximum), ("sum", np.add)):
        coarse = parsed.array(0, f"coarse_{how}")
        assert coarse is not None
        cells = fold.reduceat(fold.reduceat(weights, edges, 0), edges, 1)
        np.testing.assert_allclose(coarse[1], cells, rtol=2e-3, atol=1e-6)
    assert {(one["layer"], one["head"]) for one in parsed.run["highlights"]} <= {(0, 0), (0, 1)}
    assert all(one["layer"] == 0 for one in parsed.run["heads"])


def test_only_what_saves_is_compressed(short_run: Recording, made: Callable[..., Path]) -> None:
    parsed = Parsed.of(made(short_run))
    for name, told in parsed.about["arrays"].items():
        size = len(base64.b64decode(parsed.data[name]))
        raw = np.prod(told["shape"]) * (2 if "16" in told["dtype"] else 8 if "64" in told["dtype"] else 4)
        assert size <= raw
        assert told["gzip"] == (size < raw), name
    assert any(told["gzip"] for told in parsed.about["arrays"].values())


def test_nothing_in_a_recording_ends_its_element(tmp_path: Path, made: Callable[..., Path]) -> None:
    q, k = torch.randn(2, 1, 1, 3, 4)
    evil = ["</script><script>alert(1)</script>", "<!--<script>", "𝄞\u2028\x00"]
    run = Recording.of(q, k, tokens=evil, name="<b>&amp;", to=tmp_path / "<i>.safetensors")
    path = made(run)
    text = path.read_text("utf-8")
    assert "alert(1)</script>" not in text
    assert "<i>" not in text.split("</head>")[0]
    parsed = Parsed.of(path)
    assert parsed.run["tokens"]["texts"] == evil
    assert text.count("<script ") == text.count("</script>")
    assert "http://" not in text.replace("http://www.w3.org/", "")
    assert "default-src 'none'" in text
    assert "connect-src" not in text


# ---------------------------------------------------------------- what is chosen, and refused


def test_numbers_are_kept_while_the_page_is_small(
    masked: Recording, made: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def dtype() -> str:
        return Parsed.of(made(masked)).about["arrays"][f"{masked.key[:16]}/0/q"]["dtype"]

    assert dtype() == "float32"
    monkeypatch.setattr(offline_page, "SMALL", 1000)
    assert dtype() == "float16"


def test_values_come_along_where_they_are_asked_for(short_run: Recording, made: Callable[..., Path]) -> None:
    parsed = Parsed.of(made(short_run, layers=1, values=True))
    v = parsed.array(1, "v")
    assert v is not None
    np.testing.assert_array_equal(v, short_run.layer(1).v[0].numpy())  # type: ignore[index]
    assert parsed.run["recording"]["layers"][0]["values"]
    parsed = Parsed.of(made(short_run, layers=1))
    assert parsed.array(1, "v") is None
    assert not parsed.run["recording"]["layers"][0]["values"]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"layers": 3}, r"layer: got 3; allowed: 0 to 2\. Layers are counted from 0"),
        ({"heads": [0, 2], "layers": 0}, r"head: got 2; allowed: 0 to 1\. Heads are counted from 0"),
        ({"heads": []}, "head: got none"),
        ({"dtype": "int8"}, "dtype: got 'int8'; allowed: float32, bfloat16, float16"),
    ],
)
def test_what_is_not_there_is_refused(run: Recording, tmp_path: Path, how: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        write_page(run, tmp_path / "page.html", **how)
    assert not [*tmp_path.iterdir()]


def test_weights_that_are_no_softmax_of_products_are_refused(tmp_path: Path) -> None:
    q, k = torch.randn(2, 1, 1, 5, 4)
    for call, named in (({"normalizer": Sigmoid()}, "Sigmoid"), ({"score": Additive(torch.randn(1, 4))}, "Additive")):
        run = Recording.of(q, k, to=tmp_path / "run.safetensors", **call)  # type: ignore[arg-type]
        said = rf"page: got layer 0, .*, of {named} weights; .*Name the others \(--layer\)"
        with pytest.raises(OptionError, match=said):
            write_page(run, tmp_path / "page.html")


def test_numbers_that_float16_does_not_hold(
    tmp_path: Path, made: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    q, k = torch.randn(2, 1, 1, 5, 4)
    run = Recording.of(q * 1e6, k * 1e-6, to=tmp_path / "run.safetensors")
    with pytest.raises(OptionError, match=r"dtype: got float16, for numbers up to .*Take bfloat16"):
        write_page(run, tmp_path / "page.html", dtype="float16")
    monkeypatch.setattr(offline_page, "SMALL", 0)
    assert Parsed.of(made(run)).about["arrays"][f"{run.key[:16]}/0/q"]["dtype"] == "bfloat16"


def test_a_page_that_fails_leaves_the_old_one(
    masked: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")

    def full(self: offline_page.OfflinePage, stored: offline_page.StoredArray) -> Any:
        yield "some"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(offline_page.OfflinePage, "_encode", full)
    with pytest.raises(OSError, match="No space"):
        write_page(masked, path)
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["page.html"]
    monkeypatch.undo()
    free = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(OptionError, match=r"where 10 B are free; .*For a smaller page"):
        write_page(masked, path)
    assert path.read_text() == "old"


def test_what_was_built_and_has_changed_is_built_again(
    short_run: Recording, tmp_path: Path, made: Callable[..., Path]
) -> None:
    path = tmp_path / "run.safetensors"
    shutil.copy(short_run.path, path)
    run = Recording.open(path)
    made(run)
    built = tmp_path / "run.safetensors.explorer" / f"{run.key}-1.pyramid"
    data = bytearray(built.read_bytes())
    told = json.loads(data[data.rindex(b'{"about"') : data.rindex(b"}") + 1])
    data[told["arrays"]["received"][2]] ^= 0xFF
    built.write_bytes(data)
    received = Parsed.of(made(run)).array(1, "received")
    assert received is not None
    np.testing.assert_allclose(received[0], run.layer(1).weights[0, 0].sum(0), rtol=1e-4)


def test_a_page_is_never_without_its_atlas(
    short_run: Recording, made: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where what was built goes while a page is made of it, the page is made anew."""
    built, asked = PyramidBuilder.heads, list[int]()

    def heads(self: PyramidBuilder) -> Any:
        asked.append(1)
        return built(self) if len(asked) > 1 else None

    monkeypatch.setattr(PyramidBuilder, "heads", heads)
    assert len(Parsed.of(made(short_run)).run["heads"]) == 8
    assert len(asked) == 2


def test_a_disk_without_room_for_the_arrays_is_said(
    masked: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(offline_page.tempfile, "TemporaryFile", lambda **_: Full())
    with pytest.raises(OptionError, match=r"page: got more than the disk of .* holds; .*TMPDIR"):
        write_page(masked, tmp_path / "page.html")
    assert not [*tmp_path.iterdir()]


# ---------------------------------------------------------------- by the server, and on the command line


def test_the_server_gives_the_page_and_says_its_size(
    client: TestClient, explorer: Explorer, run: Recording, tmp_path: Path
) -> None:
    of = f"/api/recordings/{run.key[:16]}/page"
    told = client.get(of, params={"size": "1", "layer": "1", "dtype": "float16"}).json()
    assert (told["dtype"], told["layers"]) == ("float16", [1])
    answer = client.get(of, params={"layer": "1", "dtype": "float16"})
    assert int(answer.headers["content-length"]) == len(answer.content) == told["bytes"]
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''run.html"
    path = tmp_path / "page.html"
    path.write_bytes(answer.content)
    assert Parsed.of(path).run["recording"]["error"] == told["error"]
    for wrong, said in (
        ({"dtype": "int8"}, "dtype"),
        ({"layer": "9"}, "layer"),
        ({"head": "-1"}, "head"),
        ({"size": "2"}, "size"),
        ({"heads": "1"}, "'heads'"),
    ):
        refused = client.get(of, params=wrong)
        assert refused.status_code == 400, wrong
        assert refused.json()["error"]["argument"] == said


def test_explore_writes_it_and_says_how_large_it_will_be(
    short_run: Recording, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "page.html"
    asked = ["explore", str(short_run.path), "--out", str(path), "--layer", "0", "2", "--head", "1"]
    assert cli.main([*asked, "--dtype", "bfloat16"]) == 0
    said = capsys.readouterr().out
    assert f"will write {path.stat().st_size / 2**10:.1f} KiB: queries and keys in bfloat16" in said
    assert said.index("will write") < said.index(str(path))
    parsed = Parsed.of(path)
    assert [(one["index"], one["kept"]) for one in parsed.run["layers"]] == [(0, [1]), (2, [1])]
    assert cli.main(["explore", str(short_run.path), "--layer", "0"]) == 2
    assert "Add --out page.html" in capsys.readouterr().err


def test_look_writes_it_of_what_it_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "page.html"
    text = tmp_path / "some.py"
    text.write_text("def f(x):\n    return f(x)\n")
    assert cli.main(["look", str(text), "--out", str(path), "--layer", "2", "--head", "3"]) == 0
    assert "head 2.3" in capsys.readouterr().out
    parsed = Parsed.of(path)
    assert parsed.about["recordings"][0]["name"] == "some.py"
    assert [(one["index"], one["kept"]) for one in parsed.run["layers"]] == [(2, [3])]
    run = record(load(), text.read_text(), to=tmp_path / "run.safetensors")
    np.testing.assert_allclose(parsed.weights(2, 3), run.layer(2).weights[0, 3].double(), atol=2e-6)


def test_the_atlas_tells_of_the_heads_that_look_shows(tmp_path: Path, made: Callable[..., Path]) -> None:
    """Two ways to the same: of whole rows at once, and of strips of a recording."""
    text = CODE[:3000]
    run = record(load(), text, to=tmp_path / "run.safetensors")
    shown = highlighted_heads(report_of(open_model(), TextSource("x", text, len(text))), 6)
    wanted = [
        {"layer": pick.head.layer, "head": pick.head.head, "title": pick.title, "why": pick.why} for pick in shown
    ]
    assert len(wanted) >= 3
    assert Parsed.of(made(run, dtype="float16")).run["highlights"] == wanted


def test_a_page_without_node_is_asked_for_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The terminal shows what it always does; then it is said what the page needs."""
    monkeypatch.setattr(front_end, "STATIC", tmp_path / "src" / "static")
    monkeypatch.setattr(front_end, "_in_checkout", lambda: True)
    monkeypatch.setattr(front_end, "_fresh", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert cli.main(["look", "def f(x):", "--out", str(tmp_path / "page.html")]) == 2
    said = capsys.readouterr()
    assert "exact statistics" in said.out
    assert "no node and no npm here; allowed: a page that is built." in said.err
    assert "install nodejs and npm, then make web" in said.err
    monkeypatch.setattr(front_end, "_in_checkout", lambda: False)
    assert cli.main(["look", "def f(x):", "--out", str(tmp_path / "page.html")]) == 2
    assert "This installation of regard is incomplete" in capsys.readouterr().err


def test_all_heads_of_a_run_as_large_as_minilm_fit_in_15_megabytes(
    six_layers: Recording, made: Callable[..., Path]
) -> None:
    path = made(six_layers)
    assert path.stat().st_size <= 15e6
    assert sum(len(one["kept"]) for one in Parsed.of(path).run["layers"]) == 72
