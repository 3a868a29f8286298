"""What a request must pass before any of it is looked at: host, origin, token, rate, size, time.

Addresses of machines are taken as hosts, names only where they were allowed, so that a name an attacker
points here (DNS rebinding) reaches nothing.  A browser's request from another site's page is refused,
whatever it asks, and no header of CORS is ever sent.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from calotype.server.refusal import Refusal, payload
from calotype.server.settings import Settings

OPEN_PATHS = ("/", "/healthz", "/readyz")
PAGE = "/page/"
"""What needs no token: the page itself holds nothing, and asks for the token."""

UPLOADS = (
    *("/v1/jobs", "/v1/read", "/v1/images/edits", "/v1/images/variations"),
    *("/sdapi/v1/txt2img", "/sdapi/v1/img2img", "/sdapi/v1/extra-single-image", "/sdapi/v1/png-info"),
)
"""Paths whose bodies carry pictures."""

REMEMBERED = 10_000
"""Clients whose rate is known at once."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Rates:
    """A bucket of permissions for each client, filled evenly."""

    def __init__(self, a_minute: float) -> None:
        self._a_minute = a_minute
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str) -> float:
        """0 and one permission less, or the seconds until there is one."""
        now = time.monotonic()
        left, then = self._left.get(client, (self._a_minute, now))
        left = min(self._a_minute, left + (now - then) * self._a_minute / 60)
        self._left[client] = (left - 1 if left >= 1 else left, now)
        self._left.move_to_end(client)
        if len(self._left) > REMEMBERED:
            self._left.popitem(last=False)
        return 0.0 if left >= 1 else (1 - left) * 60 / self._a_minute


class Fences:
    """ASGI middleware, the outermost."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._hosts = {"localhost", *(host.lower() for host in settings.hosts)}
        self._rates = Rates(settings.limits.submissions_a_minute)
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        taken = 0

        def take(size: int) -> None:
            nonlocal taken
            if self._held + size > self._settings.limits.bodies:
                raise Refusal(
                    503,
                    "busy",
                    "The server holds as many uploads as it can; ask again in a moment.",
                    {"Retry-After": "5"},
                )
            self._held += size
            taken += size

        try:
            self._check(scope)
            body = await self._body(scope, receive, take)
        except Refusal as refusal:
            answer = JSONResponse(
                payload(scope["path"], refusal.status, refusal.kind, str(refusal)),
                refusal.status,
                # the body was not read to its end: what follows on this connection is no request
                {**refusal.headers, "Connection": "close"},
            )
            await answer(scope, receive, guarded)
        else:
            await self._app(scope, _again(body, receive), guarded)
        finally:
            self._held -= taken

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._known(host):
            raise Refusal(
                403, "wrong_host", "The server is not known by this Host name; start it with --host-name."
            )
        origin = headers.get("origin")
        strange = origin is not None and urlsplit(origin).netloc.lower() != host.lower()
        if strange or headers.get("sec-fetch-site", "none") == "cross-site":
            raise Refusal(403, "wrong_origin", "Pages of other sites may not use this server.")
        path = scope["path"]
        if self._settings.token is not None and path not in OPEN_PATHS and not path.startswith(PAGE):
            self._check_token(headers.get("authorization", ""))
        if scope["method"] == "POST":
            wait = self._rates.wait(client_of(scope))
            if wait > 0:
                raise Refusal(
                    429,
                    "too_many_requests",
                    f"You ask too often; ask again in {wait:.0f} seconds.",
                    {"Retry-After": str(int(wait) + 1)},
                )

    def _known(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _check_token(self, authorization: str) -> None:
        scheme, _, given = authorization.partition(" ")
        if scheme.lower() == "basic":  # A1111's clients know no other; any user, the token as password
            try:
                given = base64.b64decode(given, validate=True).decode().partition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                given = ""
        wanted = self._settings.token or ""
        known = scheme.lower() in ("basic", "bearer")
        if not (known and hmac.compare_digest(given.strip().encode(), wanted.encode())):
            raise Refusal(
                401,
                "wrong_token",
                "The server wants its token; send it as Authorization: Bearer TOKEN.",
                {"WWW-Authenticate": "Bearer"},
            )

    async def _body(self, scope: Scope, receive: Receive, take: Callable[[int], None]) -> bytes:
        """The whole body, once and for all: so its size and time are decided before anything reads it.

        `take` is told of every part, and refuses what is too much beside the bodies of others.
        """
        limits = self._settings.limits
        most = limits.upload if scope["path"] in UPLOADS else limits.body
        told = Headers(scope=scope).get("content-length", "0")
        if not told.isdecimal() or int(told) > most:
            raise _too_large(most)
        try:
            async with asyncio.timeout(limits.read_seconds):
                return await _read(receive, most, take)
        except TimeoutError:
            raise Refusal(
                408, "too_slow", f"The request did not arrive within {limits.read_seconds:g} seconds."
            ) from None


async def _read(receive: Receive, most: int, take: Callable[[int], None]) -> bytes:
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b""
        part = message.get("body", b"")
        size += len(part)
        if size > most:
            raise _too_large(most)
        take(len(part))
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def _too_large(most: int) -> Refusal:
    return Refusal(413, "body_too_large", f"The body is too large; at most {most} bytes are read here.")


def _again(body: bytes, receive: Receive) -> Callable[[], Awaitable[Message]]:
    """A receive that gives the body read before, then what the connection says."""
    messages: Iterable[Message] = iter([{"type": "http.request", "body": body, "more_body": False}])
    rest = iter(messages)

    async def again() -> Message:
        message = next(rest, None)
        return await receive() if message is None else message

    return again


def client_of(scope: Scope) -> str:
    """Whose rate and queue it is: the address of the connection, never a header's word."""
    client = scope.get("client")
    return str(client[0]) if client else "local"
