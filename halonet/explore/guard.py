"""Who may talk to the server: pages that it sent itself, and programs of this machine."""

from __future__ import annotations

import json
from typing import Any

# Nothing from elsewhere runs in the page, nothing of it goes elsewhere, and no page may frame it.
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
NAMES = ("127.0.0.1", "localhost")


class Guard:
    """ASGI in front of another application; refuses with 403 what did not come from this server's own page.

    A page of another site whose name was made to mean 127.0.0.1 (DNS rebinding) gives itself away by its Host, one that
    sends a form or loads a picture from here by its Origin or Sec-Fetch-Site, which browsers do not let it change.
    What changes something must name this server as its Origin.

    Args:
        app: the application.
        port: of the server.
    """

    def __init__(self, app: Any, *, port: int) -> None:
        self.app = app
        self.hosts = {f"{name}:{port}" for name in NAMES} | (set(NAMES) if port == 80 else set())

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        told = "only http is spoken here" if scope["type"] != "http" else self.refusal(scope["method"], headers)
        if told is not None:
            await _refuse(told, send)
            return

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        await self.app(scope, receive, with_headers)

    def refusal(self, method: str, headers: list[tuple[str, str]]) -> str | None:
        """Why a request is refused; None if it is not. headers: (name in small letters, value)."""
        values = {name: [value for other, value in headers if other == name] for name, _ in headers}
        hosts, origins = values.get("host", []), values.get("origin", [])
        if len(hosts) != 1 or hosts[0].lower() not in self.hosts:
            return f"host: expected one of {', '.join(sorted(self.hosts))}"
        own = [f"http://{hosts[0].lower()}"]
        if (origins or method not in ("GET", "HEAD")) and origins != own:
            return f"origin: expected {own[0]}"
        if any(site not in ("same-origin", "none") for site in values.get("sec-fetch-site", [])):
            return "asked for by a page of another site"
        return None


async def _refuse(told: str, send: Any) -> None:
    body = json.dumps({"error": told}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})
