"""The page's server: who may ask it, and that asking changes nothing."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.support.cli import LAMELLA
from tests.support.manyimages import make_many
from tests.support.page import ServedPage

pytestmark = pytest.mark.xdist_group("ui-server")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Generator[ServedPage]:
    root = make_many(tmp_path_factory.mktemp("ui") / "root", images=20)
    with ServedPage(root) as served:
        yield served


def test_the_address_leads_to_the_page(page: ServedPage) -> None:
    reply = page.request(f"/{page.secret}/")
    assert reply.status == 200
    assert b"<title>lamella</title>" in reply.body
    assert len(page.secret) >= 43  # 256 bits


@pytest.mark.parametrize(
    "path", ["/", "/index.html", "/api/store", "//api/store", "/wrong/", "/wrong/api/store", "/{secret}x/api/store",
             "/{short}/api/store", "/%/", "/wrong/../{secret}/api/store", "/%e4/api/store"]
)  # fmt: skip
def test_who_does_not_know_the_secret_learns_nothing(page: ServedPage, path: str) -> None:
    reply = page.request(path.format(secret=page.secret, short=page.secret[:-1]))
    assert (reply.status, reply.body) == (403, b"refused\n")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1", "localhost:1", "", "[::1]:{port}", "127.0.0.1:{port}.evil.example"])  # fmt: skip
def test_a_request_to_another_name_than_this_machine_is_refused(page: ServedPage, host: str) -> None:
    reply = page.request(f"/{page.secret}/api/store", host=host.format(port=page.port))
    assert (reply.status, reply.body) == (421, b"refused\n")


def test_two_hosts_are_none(page: ServedPage) -> None:
    reply = page.request(f"/{page.secret}/api/store", headers={"Host": "evil.example"})
    assert reply.status == 421


def test_localhost_is_this_machine_too(page: ServedPage) -> None:
    assert page.request(f"/{page.secret}/api/store", host=f"localhost:{page.port}").status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "empty"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Dest": "script"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "iframe"},
    ],
)
def test_other_pages_may_not_ask_behind_its_back(page: ServedPage, headers: dict[str, str]) -> None:
    assert page.request(f"/{page.secret}/api/store", headers=headers).status == 403


def test_a_link_from_elsewhere_leads_to_the_page(page: ServedPage) -> None:
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document", "Sec-Fetch-Mode": "navigate"}
    assert page.request(f"/{page.secret}/", headers=headers).status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "<b>"])
def test_nothing_can_be_written(page: ServedPage, method: str) -> None:
    reply = page.request(f"/{page.secret}/api/store", method=method)
    assert reply.status == (501 if method in {"TRACE", "CONNECT", "<b>"} else 405)
    assert reply.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
    assert b"<b>" not in reply.body


@pytest.mark.parametrize(
    "name", ["../server.py", "..%2fserver.py", "/etc/passwd", "page.css/", ".", "kit.js%00", "page/../page.js"]
)
def test_only_the_pages_own_files_are_given_out(page: ServedPage, name: str) -> None:
    assert page.request(f"/{page.secret}/{name}").status == 404


def test_the_page_may_load_nothing_from_elsewhere_and_be_framed_by_no_one(page: ServedPage) -> None:
    for name in ("", "page.js", "page.css", "icon.svg", "api/store"):
        headers = page.request(f"/{page.secret}/{name}").headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert "Access-Control-Allow-Origin" not in headers
        assert "Set-Cookie" not in headers


def test_it_listens_on_the_loopback_address_alone(page: ServedPage) -> None:
    table = Path("/proc/net/tcp").read_text().splitlines()[1:]
    listening = [line.split()[1] for line in table if line.split()[3] == "0A"]
    assert [each for each in listening if each.endswith(f":{page.port:04X}")] == [f"0100007F:{page.port:04X}"]
    other = [
        line for line in Path("/proc/net/tcp6").read_text().splitlines() if f":{page.port:04X} " in line.split(" ")[0:3]
    ]
    assert not other


def test_head_is_get_without_the_body(page: ServedPage) -> None:
    reply = page.request(f"/{page.secret}/", method="HEAD")
    assert (reply.status, reply.body) == (200, b"")
    assert int(reply.headers["Content-Length"]) > 1000


@pytest.mark.parametrize(
    ("question", "status"),
    [("nothing", 404), ("image?id=sha256:0", 404), ("layer?id=..", 404), ("container?id=", 404), ("files?layer=x&path=/", 404),
     ("find?path=", 400), ("find?path=%00", 400), ("stacks?from=x", 400), ("stacks?from=9&to=3", 400), ("stacks?from=-1", 400)],
)  # fmt: skip
def test_a_question_that_makes_no_sense_is_answered_with_a_reason(page: ServedPage, question: str, status: int) -> None:
    reply = page.request(f"/{page.secret}/api/{question}")
    assert reply.status == status
    assert reply.document["error"]


def test_no_more_columns_are_given_at_once_than_a_screen_could_show(page: ServedPage) -> None:
    document = page.ask("stacks?from=0&to=99999999")
    assert document["columns"] == 20
    assert {box["kind"] for box in document["boxes"]} == {"layer", "image"}


def test_many_silent_connections_do_not_shut_out_the_page(page: ServedPage) -> None:
    silent = [socket.create_connection(("127.0.0.1", page.port)) for _ in range(40)]
    try:
        assert page.ask("store")["images"] == 20
    finally:
        for each in silent:
            each.close()


def test_asking_leaves_the_records_as_they_are(tmp_path: Path) -> None:
    root = make_many(tmp_path / "root", images=5)
    before = subprocess.run(["find", root, "-printf", "%p %s %T@ %i\\n"], capture_output=True, check=True).stdout
    with ServedPage(root) as served:
        layer = next(box["id"] for box in served.ask("stacks")["boxes"] if box["kind"] == "layer")
        for question in (
            "store",
            "overview",
            f"layer?id={layer}",
            f"files?layer={layer}",
            "find?path=/bin/sh",
            "check",
        ):
            served.ask(question)
    after = subprocess.run(["find", root, "-printf", "%p %s %T@ %i\\n"], capture_output=True, check=True).stdout
    assert after == before


def test_a_port_that_is_taken_is_named(tmp_path: Path, page: ServedPage) -> None:
    answer = subprocess.run(
        [LAMELLA, "ui", "--no-open", "--port", str(page.port), "--root", make_many(tmp_path / "root", images=1)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert answer.returncode == 1
    assert f"port {page.port}" in answer.stderr
    assert "choose another" in answer.stderr


def test_a_path_without_a_store_is_refused(tmp_path: Path) -> None:
    answer = subprocess.run(
        [LAMELLA, "ui", "--no-open", "--root", tmp_path], capture_output=True, text=True, check=False, timeout=60
    )
    assert answer.returncode == 1
    assert "no store here" in answer.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_it_ends_at_once_when_told_to_with_its_helper(tmp_path: Path, number: signal.Signals, code: int) -> None:
    served = ServedPage(make_many(tmp_path / "root", images=1))
    children = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children").read_text().split()
    assert children
    waiting = socket.create_connection(("127.0.0.1", served.port))
    waiting.sendall(f"GET /{served.secret}/api/version HTTP/1.1\r\nHost: {served.host}\r\n\r\n".encode())
    assert b"200 OK" in waiting.recv(65536)
    served.process.send_signal(number)
    served.process.communicate(timeout=30)
    assert served.process.returncode == code
    waiting.close()
    assert not [child for child in children if Path(f"/proc/{child}").exists()]
