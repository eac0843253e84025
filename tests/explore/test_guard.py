"""Who may talk to the server: its own page and programs of this machine, no other page of the browser."""

import socket

import pytest

from halonet.explore.guard import Guard
from tests.explore.serving import Serving

GUARD = Guard(None, port=7861)
OWN = "http://127.0.0.1:7861"


@pytest.mark.parametrize(
    ("method", "headers", "told"),
    [
        ("GET", {"host": "127.0.0.1:7861"}, None),
        ("GET", {"host": "localhost:7861", "sec-fetch-site": "none"}, None),
        ("GET", {"host": "LOCALHOST:7861"}, None),
        ("POST", {"host": "127.0.0.1:7861", "origin": OWN, "sec-fetch-site": "same-origin"}, None),
        # A name of somebody else's that was made to mean 127.0.0.1.
        ("GET", {"host": "evil.example:7861"}, "host"),
        ("GET", {"host": "127.0.0.1.evil.example:7861"}, "host"),
        ("GET", {"host": "127.0.0.1"}, "host"),
        ("GET", {"host": "127.0.0.1:80"}, "host"),
        ("GET", {}, "host"),
        ("POST", {"host": "evil.example:7861", "origin": "http://evil.example:7861"}, "host"),
        # Another page that sends a form, or scripts, or loads a picture from here.
        ("POST", {"host": "127.0.0.1:7861"}, "origin"),
        ("POST", {"host": "127.0.0.1:7861", "origin": "http://evil.example"}, "origin"),
        ("POST", {"host": "127.0.0.1:7861", "origin": "null"}, "origin"),
        ("POST", {"host": "127.0.0.1:7861", "origin": "http://127.0.0.1:9999"}, "origin"),
        ("POST", {"host": "127.0.0.1:7861", "origin": "http://localhost:7861"}, "origin"),
        ("GET", {"host": "127.0.0.1:7861", "origin": "http://evil.example"}, "origin"),
        ("OPTIONS", {"host": "127.0.0.1:7861", "origin": "http://evil.example"}, "origin"),
        ("GET", {"host": "127.0.0.1:7861", "sec-fetch-site": "cross-site"}, "another site"),
        ("GET", {"host": "127.0.0.1:7861", "sec-fetch-site": "same-site"}, "another site"),
    ],
)
def test_refusal(method: str, headers: dict[str, str], told: str | None) -> None:
    refused = GUARD.refusal(method, list(headers.items()))
    assert (refused is None) if told is None else told in str(refused)


def test_two_hosts_are_refused() -> None:
    headers = [("host", "127.0.0.1:7861"), ("host", "evil.example")]
    assert "host" in str(GUARD.refusal("GET", headers))


@pytest.mark.parametrize("path", ["/", "/static/main.js", "/api/start", "/api/view/1"])
def test_rebound_name_sees_nothing(served: Serving, path: str) -> None:
    status, body, _ = served.ask(path, headers={"host": f"evil.example:{served.port}"})
    assert status == 403
    assert b"expected one of" in body


@pytest.mark.parametrize("path", ["/api/pictures", "/api/samples", "/api/look", "/api/ask?record=1", "/api/cost"])
def test_other_pages_change_nothing(served: Serving, path: str) -> None:
    before = served.told("/api/samples", {"name": "drawn scene"})["id"]
    assert "origin" in served.refused(path, {}, status=403, headers={"origin": "http://evil.example"})
    assert served.told("/api/samples", {"name": "drawn scene"})["id"] == before + 1


def test_headers(served: Serving) -> None:
    for path in ("/", "/static/main.js", "/api/start"):
        _, _, headers = served.ask(path)
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers


def test_only_this_machine_is_listened_to(served: Serving) -> None:
    with socket.socket() as other:
        # A second socket at the same port of another address of this machine can only be had while it is free.
        other.bind(("127.0.0.2", served.port))
    for path in ("/docs", "/redoc", "/openapi.json"):
        assert served.ask(path)[0] == 404
