"""Who may ask the dashboard for what: a WSGI application around one that asks nobody.

It keeps three kinds of strangers from the studies. A page of another site in the user's own browser
cannot take a name of ours (`Host`: no answer of a DNS server makes it one of us), nor load anything
from here, nor send anything here (`Origin`, `Sec-Fetch-Site`). Somebody else on the network needs
the token. An artifact that somebody has uploaded is never shown as a page of ours.
"""

from __future__ import annotations

import hmac
import html
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, quote

from hpo.addresses import as_ip_address, is_loopback

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
Headers = list[tuple[str, str]]

READS = ("GET", "HEAD")
HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")

HEADERS = [
    # Beside the policy that optuna-dashboard sends with its page: a browser obeys both.
    (
        "Content-Security-Policy",
        "frame-ancestors 'none'; base-uri 'none'; form-action 'self'; object-src 'none'",
    ),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "same-origin"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
]
ARTIFACT_HEADERS = [
    ("Content-Disposition", "attachment"),
    ("Content-Security-Policy", "default-src 'none'; sandbox"),
]

WELCOME = """<!DOCTYPE html><html lang="en"><head><title>hpo dashboard</title>
<meta http-equiv="refresh" content="0; url={path}"></head>
<body><a href="{path}">hpo dashboard</a></body></html>"""
"""Not an HTTP redirect: a browser that came from a link on another site would follow that without
the cookie, which is for our own pages alone. This page is ours."""


@dataclass(frozen=True, kw_only=True)
class Guard:
    """Passes on to ``app`` what is allowed, and answers the rest.

    Attributes:
        app: knows the studies.
        names: of this server in a request's `Host`, beside those of loopback.
        any_address: whether any IP address will do there: it listens beyond loopback.
        token: what everybody has to show; None if nobody has to.
        cookie: name of the cookie that a browser keeps it in.
        is_writable: whether anything but reading is allowed.
    """

    app: App
    names: frozenset[str] = frozenset()
    any_address: bool = False
    token: str | None = None
    cookie: str = "hpo_dashboard"
    is_writable: bool = False

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Answer one request."""
        for header in [key for key in environ if key.startswith("HTTP_X_FORWARDED")]:
            del environ[header]  # bottle would believe them and send the user elsewhere
        begin = _with_headers(environ["PATH_INFO"], start_response)
        if (refusal := self._refusal(environ)) is not None:
            return _answer(begin, *refusal)
        if self.token is not None and not self._is_shown(_kept_tokens(environ, self.cookie)):
            if not self._is_shown(_token_in_address(environ)):
                return _answer(begin, *NO_TOKEN)
            return self._welcome(environ["PATH_INFO"], begin)
        return self.app(environ, begin)

    def _refusal(self, environ: dict[str, Any]) -> tuple[str, str] | None:
        """Status and reason if the request is refused whoever sends it."""
        host = environ.get("HTTP_HOST", "")
        if not self._is_ours(host):
            return (
                "403 Forbidden",
                f"this server is not called {host[:100]!r}; open the address that `hpo dashboard` "
                "printed, or start it with --hostname and the name that you call it by",
            )
        if _is_foreign(environ, host):
            return "403 Forbidden", "a page of another site may not load or send anything here"
        if environ["REQUEST_METHOD"] not in READS and not self.is_writable:
            return (
                "405 Method Not Allowed",
                "this dashboard only shows; `hpo dashboard --writable` lets you change studies",
            )
        return None

    def _is_ours(self, host: str) -> bool:
        if not (parts := HOST.fullmatch(host)):
            return False
        name = parts["name"].lower()
        is_address = self.any_address and as_ip_address(name) is not None
        return is_loopback(name) or name in self.names or is_address

    def _is_shown(self, tokens: Iterable[str]) -> bool:
        assert self.token is not None
        expected = self.token.encode()
        return any(hmac.compare_digest(token.encode(), expected) for token in tokens)

    def _welcome(self, path: str, begin: Callable[..., Any]) -> Iterable[bytes]:
        """Have the browser keep the token, and take it out of the address that others may see."""
        kept = f"{self.cookie}={self.token}; Path=/; HttpOnly; SameSite=Strict"
        place = html.escape("/" + quote(path.lstrip("/").encode("latin-1")))
        content = WELCOME.format(path=place).encode()
        return _send(begin, "200 OK", "text/html", content, [("Set-Cookie", kept)])


NO_TOKEN = (
    "401 Unauthorized",
    "this dashboard asks for its token: open the address that `hpo dashboard` printed, with "
    "?token=... at its end, or send the header `Authorization: Bearer ...`",
)


def _is_foreign(environ: dict[str, Any], host: str) -> bool:
    """Whether a page of another origin is behind a request; it may link to us, and no more.

    Programs that are no browser send none of these headers, and no page is behind them.
    """
    site = environ.get("HTTP_SEC_FETCH_SITE", "none")
    is_read = environ["REQUEST_METHOD"] in READS
    is_link = is_read and environ.get("HTTP_SEC_FETCH_DEST") == "document"
    if site not in ("same-origin", "none") and not is_link:
        return True
    origin = environ.get("HTTP_ORIGIN")
    return origin is not None and not is_read and origin.partition("://")[2] != host


def _kept_tokens(environ: dict[str, Any], cookie: str) -> list[str]:
    """The tokens that a program sends, or a browser keeps."""
    scheme, _, token = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    found = [token.strip()] if scheme.lower() == "bearer" else []
    try:
        cookies: SimpleCookie = SimpleCookie(environ.get("HTTP_COOKIE", ""))
    except CookieError:
        return found
    return [*found, cookies[cookie].value] if cookie in cookies else found


def _token_in_address(environ: dict[str, Any]) -> list[str]:
    is_read = environ["REQUEST_METHOD"] in READS
    return parse_qs(environ.get("QUERY_STRING", "")).get("token", []) if is_read else []


def _with_headers(path: str, start_response: Callable[..., Any]) -> Callable[..., Any]:
    """``start_response`` that adds our headers, and drops those that let other sites in."""
    added = list(HEADERS)
    if path.startswith("/artifacts/"):
        added += ARTIFACT_HEADERS
    if not path.startswith("/static/"):  # studies; the page's code is no secret, and large
        added.append(("Cache-Control", "no-store"))

    def begin(status: str, headers: Headers, *exc_info: Any) -> Any:
        kept = [
            (name, value)
            for name, value in headers
            if not name.lower().startswith("access-control-")
        ]
        return start_response(status, kept + added, *exc_info)

    return begin


def _answer(begin: Callable[..., Any], status: str, reason: str) -> Iterable[bytes]:
    """In the form that optuna-dashboard's page knows how to show."""
    extra = {
        "401": [("WWW-Authenticate", "Bearer")],
        "405": [("Allow", ", ".join(READS))],
    }.get(status[:3], [])
    return _send(begin, status, "application/json", json.dumps({"reason": reason}).encode(), extra)


def _send(
    begin: Callable[..., Any], status: str, kind: str, content: bytes, extra: Headers
) -> Iterable[bytes]:
    headers = [
        ("Content-Type", f"{kind}; charset=utf-8"),
        ("Content-Length", str(len(content))),
        *extra,
    ]
    begin(status, headers)
    return [content]
