"""What the explorer refuses: no token, another host, paths that are none, every malformed number."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from regard import Recording
from regard.explorer.server import application
from regard.explorer.state import Explorer
from web.conftest import refused

PORT, TOKEN = 1234, "the-token"


@pytest.mark.parametrize("token", [None, "", "another", TOKEN + "x", TOKEN[:-1], "é"])
@pytest.mark.parametrize("path", ["/api/recordings", "/api/openapi.json", "/api/nothing", "/api"])
def test_without_the_token_nothing_is_told(explorer: Explorer, token: str | None, path: str) -> None:
    client = TestClient(application(explorer, PORT, TOKEN), f"http://127.0.0.1:{PORT}")
    headers = [] if token is None else [(b"X-Regard-Token", token.encode())]
    error = refused(client.get(path, headers=headers), 401)
    assert error["argument"] == "X-Regard-Token"
    assert TOKEN not in str(error)


def test_two_tokens_are_none(client: TestClient) -> None:
    twice = [("X-Regard-Token", TOKEN), ("X-Regard-Token", TOKEN)]
    bare = TestClient(client.app, f"http://127.0.0.1:{PORT}")
    refused(bare.get("/api/recordings", headers=twice), 401)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        f"evil.example:{PORT}",
        "127.0.0.1",
        "localhost",
        f"127.0.0.1:{PORT + 1}",
        f"127.0.0.1:{PORT}.evil.example",
        f"0.0.0.0:{PORT}",
        f"[::1]:{PORT}",
        "",
        f"127.0.0.1:{PORT}@evil",
    ],
)
@pytest.mark.parametrize("path", ["/api/recordings", "/"])
def test_another_host_is_not_served(client: TestClient, host: str, path: str) -> None:
    assert refused(client.get(path, headers={"Host": host}), 403)["argument"] == "Host"


def test_localhost_is_this_host(client: TestClient) -> None:
    assert client.get("/api/recordings", headers={"Host": f"localhost:{PORT}"}).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/assets/../server.py",
        "/assets/..%2fserver.py",
        "/assets/%2e%2e/server.py",
        "/assets/..%5cserver.py",
        "/assets//etc/passwd",
        "/assets/%2fetc%2fpasswd",
        "/../../etc/passwd",
        "/static/index.html",
        "/assets/",
        "/assets",
        "/server.py",
        "/assets/index.html%00.js",
        "/api/recordings/..%2f..%2fetc",
        "/api/recordings/",
        "/api/recordings/%00",
        "/.git/config",
    ],
)
def test_a_path_is_looked_up_and_never_opened(client: TestClient, path: str) -> None:
    error = refused(client.get(path), 404)
    assert "import" not in str(error)


def test_the_page_is_served_where_it_is_built(explorer: Explorer, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("static")
    bare = TestClient(application(explorer, PORT, TOKEN, folder / "missing"), f"http://127.0.0.1:{PORT}")
    assert "make web" in bare.get("/").text
    (folder / "assets").mkdir()
    (folder / "index.html").write_text("<!doctype html>the page")
    (folder / "icon.svg").write_text("<svg/>")
    (folder / "assets" / "index-1.js").write_text("let x = 1")
    (folder / "assets" / "link.js").symlink_to(folder / "missing")
    (folder.parent / "secret").write_text("secret")
    client = TestClient(application(explorer, PORT, TOKEN, folder), f"http://127.0.0.1:{PORT}")
    page = client.get("/")
    assert (page.text, page.status_code) == ("<!doctype html>the page", 200)
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    script = client.get("/assets/index-1.js")
    assert "javascript" in script.headers["content-type"]
    assert client.get("/icon.svg").headers["content-type"] == "image/svg+xml"
    for path in ("/assets/..%2f..%2fsecret", "/assets/link.js", "/assets/other.js"):
        refused(client.get(path), 404)


BAD = [
    ("map/0/0", {"q": one})
    for one in ("", "1", "1,2,3", "a,b", "-1,5", "5,5", "9,3", "0,2501", "0,1e3", " 0,5", "0,５", "0," + "9" * 40)
] + [
    ("map/0/0", {"k": "0,2501"}),
    ("map/0/0", {"rows": "0"}),
    ("map/0/0", {"rows": "-1"}),
    ("map/0/0", {"rows": "1.5"}),
    ("map/0/0", {"rows": "x"}),
    ("map/0/0", {"rows": ""}),
    ("map/0/0", {"q": "0,10", "rows": "11"}),
    ("map/0/0", {"k": "0,10", "cols": "11"}),
    ("map/0/0", {"how": "median"}),
    ("map/0/0", {"how": ""}),
    ("map/0/0", {"colour": "red"}),
    ("tokens", {"start": "-1"}),
    ("tokens", {"start": "5", "stop": "4"}),
    ("tokens", {"stop": "x"}),
    ("search", {}),
    ("search", {"text": ""}),
    ("search", {"text": "a", "from": "-3"}),
    ("strongest/0/0", {"count": "0"}),
    ("strongest/0/0", {"count": "many"}),
    ("strongest/0/0", {"skip": "all"}),
    ("atlas", {"x": "1"}),
    ("row/0/0/5", {"q": "0,5"}),
    ("cell/0/0/5/5", {"step": "3"}),
    ("thumbnail/0/0", {"rows": "5"}),
    ("marginals/0/0", {"n": "5"}),
    ("", {"x": "1"}),
]


@pytest.mark.parametrize(("path", "query"), BAD)
def test_a_malformed_query_is_refused_in_four_parts(
    client: TestClient, run: Recording, path: str, query: dict[str, str]
) -> None:
    place = f"/api/recordings/{run.key[:16]}/{path}".rstrip("/")
    error = refused(client.get(place, params=query), 400)
    if query:
        assert error["argument"].strip("'") in query


MISSING = [
    "map/3/0",
    "map/0/2",
    "map/-1/0",
    "map/0/x",
    "map/0/1.0",
    "map/00000000000000000/0",
    "map/0/²",
    "row/0/0/2500",
    "row/0/0/-1",
    "row/9/0/0",
    "cell/0/0/2500/0",
    "cell/0/0/0/2500",
    "cell/0/0/0/x",
    "thumbnail/0/9",
    "marginals/7/0",
    "strongest/0/5",
    "nothing",
    "map/0",
    "map/0/0/0",
]


@pytest.mark.parametrize("path", MISSING)
def test_what_is_not_there_is_not_found(client: TestClient, run: Recording, path: str) -> None:
    refused(client.get(f"/api/recordings/{run.key[:16]}/{path}"), 404)
    refused(client.get(f"/api/recordings/another/{path}"), 404)


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("map/0/0", {"rows": "1025"}),
        ("map/0/0", {"cols": "99999999"}),
        ("strongest/0/0", {"count": "1001"}),
        ("search", {"text": "x" * 1001}),
        ("tokens", {"stop": "2501"}),
    ],
)
def test_too_much_is_too_much(client: TestClient, run: Recording, path: str, query: dict[str, str]) -> None:
    refused(client.get(f"/api/recordings/{run.key[:16]}/{path}", params=query), 413)


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"a": "x"},
        {"a": "{id}/0/0"},
        {"a": "{id}/0/0", "b": "{id}/0"},
        {"a": "{id}/0/0", "b": "{id}/0/x"},
        {"a": "{id}/0/0", "b": "{id}/0/9"},
        {"a": "no/0/0", "b": "{id}/0/0"},
        {"a": "{id}/0/0", "b": "{id}/0/1", "q": "3"},
    ],
)
def test_a_comparison_takes_two_heads(client: TestClient, run: Recording, query: dict[str, str]) -> None:
    given = {name: part.replace("{id}", run.key[:16]) for name, part in query.items()}
    response = client.get("/api/compare", params=given)
    refused(response, 400 if response.status_code == 400 else 404)


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"text": "one"},
        {"text": "a b c d e f g"},
        {"text": "a b", "tied": "yes"},
        {"text": "a b", "causal": "2"},
        {"text": "a b", "divisor": "0"},
        {"text": "a b", "divisor": "nan"},
        {"text": "a b", "divisor": "-1"},
        {"text": "a b", "divisor": "two"},
        {"text": "a b", "divisor": "inf"},
        {"text": "a b", "x": "1"},
    ],
)
def test_a_lesson_has_two_to_six_words(client: TestClient, query: dict[str, str]) -> None:
    refused(client.get("/api/lesson/words", params=query), 400)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_can_be_changed(client: TestClient, method: str) -> None:
    response = client.request(method, "/api/recordings")
    refused(response, 405)
    assert response.headers["allow"] == "GET"
