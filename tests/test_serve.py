"""The server of the live explorer: who may ask, and what is refused."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from cnnviz.serve.questions import check_target
from cnnviz.serve.security import Door
from cnnviz.serve.server import Listening, door_of
from tests.support.runs import TINY
from tests.support.serving import Served, photo, served, soon, until_it_is_not_wanted, write_photos


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(write_photos(tmp_path_factory.mktemp("photos")), model=TINY) as running:
        yield running


# Who may ask.


def test_the_printed_address_opens_the_page_and_sets_a_cookie_that_no_script_reads(site: Served) -> None:
    answer = site.raw("GET", site.door.url.split(str(site.door.port), 1)[1])
    assert answer.status == 200
    assert answer.headers["set-cookie"] == (
        f"cnnviz-{site.door.port}={site.door.token}; Path=/; HttpOnly; SameSite=Strict"
    )
    cookie = answer.headers["set-cookie"].split(";")[0]
    again = site.raw("GET", "/api/status", Cookie=f"theme=dark; {cookie}")
    assert again.status == 200
    assert again.json == {"busy": False, "waiting": 0}


@pytest.mark.parametrize("other", ['foo={"a":1}', "a=b c", "foo", "\u00fc=1", "cnnviz-{port}=old"])
def test_cookies_of_other_servers_are_passed_over(site: Served, other: str) -> None:
    own = f"cnnviz-{site.door.port}={site.door.token}"
    others = other.format(port=site.door.port) if "port" in other else other
    for cookie in (f"{others}; {own}", f"{own}; {others}"):
        assert site.raw("GET", "/api/status", Cookie=cookie).status == 200
    assert site.raw("GET", "/api/status", Cookie=others).status == 403


@pytest.mark.parametrize("path", ["/", "/page/explorer.js", "/api/model", "/api/images/sample-0/photo.jpg", "/nowhere"])
@pytest.mark.parametrize("query", ["", "?token=wrong", "?token="])
def test_nothing_is_told_without_the_token(site: Served, path: str, query: str) -> None:
    answer = site.raw("GET", path + query)
    assert answer.status == 403
    assert b"token" in answer.body
    assert "set-cookie" not in answer.headers


def test_a_token_in_the_address_opens_the_page_alone(site: Served) -> None:
    assert site.raw("GET", f"/api/model?token={site.door.token}").status == 403
    assert site.raw("POST", f"/?token={site.door.token}", b"", Origin=f"http://{site.host}").status == 403


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{port}",
        "127.0.0.1",
        "127.0.0.1:1",
        "127.0.0.1.evil.example:{port}",
        "[::1]:{port}",
    ],
)
def test_another_name_is_refused_also_with_the_token(site: Served, host: str) -> None:
    """A name of another site that resolves to 127.0.0.1: the browser sends that name."""
    name = host.format(port=site.door.port)
    token = f"Bearer {site.door.token}"
    assert site.raw("GET", "/api/model", Host=name, Authorization=token).status == 421
    assert site.raw("GET", f"/?token={site.door.token}", Host=name).status == 421


def test_no_host_or_two_are_refused(site: Served) -> None:
    for head in ("", f"Host: {site.host}\r\nHost: {site.host}\r\n"):
        with socket.create_connection(("127.0.0.1", site.door.port)) as connection:
            connection.sendall(f"GET /?token={site.door.token} HTTP/1.1\r\n{head}\r\n".encode())
            status = connection.recv(4096).split(b" ")[1]
        assert status in (b"400", b"421")


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://{host}"])
def test_a_page_of_another_site_starts_nothing(site: Served, origin: str) -> None:
    cookie = f"{site.door.cookie}={site.door.token}"
    given = origin.format(host=site.host)
    assert site.raw("POST", "/api/images", photo(), Cookie=cookie, Origin=given).status == 403
    assert site.raw("POST", "/api/images", photo(), Cookie=cookie).status == 403
    assert site.raw("POST", "/api/images", photo(), Cookie=cookie, Origin=f"http://{site.host}").status == 200


@pytest.mark.parametrize("site_of", ["cross-site", "same-site"])
def test_a_page_of_another_port_of_this_machine_reads_nothing(site: Served, site_of: str) -> None:
    """Cookies know no ports, so a page of another server here sends ours."""
    cookie = f"{site.door.cookie}={site.door.token}"
    assert site.raw("GET", "/api/images/sample-0/photo.jpg", Cookie=cookie, Sec_Fetch_Site=site_of).status == 403
    assert site.raw("GET", "/api/images/sample-0/photo.jpg", Cookie=cookie, Sec_Fetch_Site="same-origin").status == 200


def test_every_answer_carries_the_policy(site: Served) -> None:
    for answer in (site.ask("/"), site.ask("/api/nothing"), site.raw("GET", "/")):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"


# What is refused.


def test_a_body_that_is_too_large_is_refused_by_its_length_before_it_is_sent(site: Served) -> None:
    token = f"Bearer {site.door.token}"
    answer = site.raw("POST", "/api/images", Authorization=token, Content_Length=str(1 << 40))
    assert answer.status == 413
    assert b"MiB" in answer.body


def test_a_body_of_unknown_length_is_refused_as_it_comes(site: Served) -> None:
    with socket.create_connection(("127.0.0.1", site.door.port), timeout=30) as connection:
        head = f"POST /api/images HTTP/1.1\r\nHost: {site.host}\r\nAuthorization: Bearer {site.door.token}\r\n"
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
        sent = 0
        try:
            while sent < 64:  # 2 MiB, of which half is taken
                connection.sendall(chunk)
                sent += 1
        except OSError:
            pass
        assert connection.recv(4096).split(b" ")[1] == b"413"


def test_a_decompression_bomb_is_refused_before_it_is_decoded(site: Served) -> None:
    stream = io.BytesIO()
    Image.new("1", (100, 100)).save(stream, "PNG")
    data = bytearray(stream.getvalue())
    data[16:24] = (60_000).to_bytes(4, "big") * 2  # its header now says 3.6 gigapixels
    import zlib

    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    answer = site.ask("/api/images", bytes(data))
    assert answer.status == 422
    assert answer.json["type"] == "too-large"
    assert "60000 x 60000" in answer.json["error"]


@pytest.mark.parametrize(("data", "kind"), [(b"", "empty"), (b"hello", "not-an-image"), (photo()[:200], "truncated")])
def test_what_is_no_image_is_an_answer_with_a_reason(site: Served, data: bytes, kind: str) -> None:
    answer = site.ask("/api/images", data)
    assert answer.status == 422
    assert answer.json["type"] == kind
    assert answer.json["error"]


@pytest.mark.parametrize(
    "path",
    [
        "/page/../engine.py",
        "/page/..%2Fengine.py",
        "/page//etc/passwd",
        "/page/%2e%2e/%2e%2e/__init__.py",
        "/etc/passwd",
        "/api/images/..%2F..%2Fetc%2Fpasswd/photo.jpg",
        "/api/images/sample-99/thumbnail.jpg",
        "/api/results/x/layer.png",
        "/api/jobs/x",
        "/api/jobs/x/files/..%2Fx",
    ],
)
def test_no_path_of_the_machine_can_be_read(site: Served, path: str) -> None:
    answer = site.ask(path)
    assert answer.status in (400, 404)
    assert b"root:" not in answer.body
    assert b"import" not in answer.body


@pytest.mark.parametrize(
    "spec",
    [
        "code.py:run",
        "class:labels.csv",
        "class:1@mask:/etc/passwd",
        "folder",
        "similar:/etc/passwd",
        "class:cat",
        "diff:1,a.py:f",
        "diff:class:1@mask:x,2",
        "box:class=labels.csv",
    ],
)
def test_targets_that_would_open_a_file_are_refused(site: Served, spec: str) -> None:
    image = site.drop(photo())["image"]
    answer = site.ask("/api/explain", {"image": image, "method": "gradcam", "target": spec})
    assert answer.status == 400
    assert "cannot be asked for here" in answer.json["error"]


@pytest.mark.parametrize(
    "spec",
    [
        "pred", "class:3", "class:3@all", "class:15@point:120,80", "class:1@box:10%,20%,30.5,40", "segment:2",
        "box:3/x0", "box:1,2,3,4", "unit:layer4.1.conv:17/strongest", "neuron:features.28:5:1:2", "-output:2",
        "diff:3,4", "diff:unit:a.b:1,unit:a.b:2", "token:4", None,
    ],
)  # fmt: skip
def test_targets_that_can_be_clicked_are_taken(spec: str | None) -> None:
    check_target(spec, ())


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ([], "no JSON object"),
        ({"image": "x"}, "method"),
        ({"image": 3, "method": "gradcam"}, "image"),
        ({"image": "x", "method": "gradcm"}, "gradcm"),
        ({"image": "x", "method": "occlusion", "options": {"window": 0}}, "window"),
        ({"image": "x", "method": "occlusion", "options": {"windw": 3}}, "windw"),
        ({"image": "x", "method": "gradcam", "out": "/tmp"}, "out"),
        ({"image": "x", "method": "gradcam"}, "not here any more"),
    ],
)
def test_a_wrong_question_is_answered_in_words(site: Served, body: Any, said: str) -> None:
    answer = site.ask("/api/explain", body)
    assert answer.status == 400
    assert said in answer.json["error"]


def test_what_is_no_json_is_answered_in_words(site: Served) -> None:
    for data in (b"{", b"[" * 50_000, b'"' + b"x" * (1 << 17) + b'"'):
        assert site.ask("/api/explain", data).status == 400


def test_what_nobody_foresaw_is_an_answer_and_a_note(site: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks() -> None:
        raise RuntimeError("a fuse\nand more")

    monkeypatch.setattr(site.explorer, "model", breaks)
    answer = site.ask("/api/model")
    assert (answer.status, answer.json["error"]) == (500, "a fuse")
    assert site.notes[-1] == "GET /api/model: RuntimeError: a fuse"


@pytest.mark.parametrize("waits", [False, True])
def test_what_a_client_that_has_gone_asked_for_is_given_up(
    site: Served, monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    """Scripts name no tab: nothing else would ever end it."""
    begun, go = threading.Event(), threading.Event()
    made: list[str] = []

    def layers() -> list[str]:
        until_it_is_not_wanted(begun)
        return made

    monkeypatch.setattr(site.explorer, "layers", layers)
    if waits:
        site.worker.submit(lambda: go.wait(20))
        monkeypatch.setattr(site.explorer, "layers", lambda: made.append("computed"))
    head = f"GET /api/layers HTTP/1.1\r\nHost: {site.host}\r\nAuthorization: Bearer {site.door.token}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", site.door.port)) as connection:
        connection.sendall(head.encode())
        assert soon(lambda: site.worker.waiting == 1) if waits else begun.wait(20)
    assert soon(lambda: site.worker.waiting == 0)
    go.set()
    assert soon(lambda: not site.worker.busy)
    assert not made


def test_a_client_that_goes_while_it_sends_is_no_failure_of_ours(site: Served) -> None:
    told = list(site.notes)
    head = f"POST /api/images HTTP/1.1\r\nHost: {site.host}\r\nAuthorization: Bearer {site.door.token}\r\n"
    with socket.create_connection(("127.0.0.1", site.door.port)) as connection:
        connection.sendall(f"{head}Content-Length: 1000\r\n\r\n".encode() + b"x" * 10)
        assert site.ask("/api/status").status == 200
    assert not soon(lambda: site.notes != told, 0.5)


def test_a_door_of_ipv6_has_its_address_in_brackets() -> None:
    door = Door("[::1]", 8080, "secret")
    assert door.url == "http://[::1]:8080/?token=secret"
    assert door.hosts == {"[::1]:8080", "localhost:8080"}
    assert door_of(Listening("::1"), 8080).url.startswith("http://[::1]:8080/?token=")
