"""Requests to one endpoint: authorized, redirected and tried again by the rules, or failed with the right error.

Authorization is bound to the endpoint's scheme, host and port: whatever else a request is led to gets none.  Which
requests there are is for ``client`` and ``upload``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TypeVar

from lamella.errors import InvalidArgument, LamellaError, NotFound, Unauthorized, Unavailable
from lamella.model.documents import decode_object
from lamella.transports.registry.attempts import RETRIES, Attempts, retry_after
from lamella.transports.registry.auth import Authorizer
from lamella.transports.registry.hosts import (
    Endpoint,
    Location,
    Origin,
    is_link_local,
    is_loopback,
    parse_location,
    with_scheme,
)
from lamella.transports.registry.http import Answer, Body, Fault, Transport
from lamella.transports.registry.keychain import Keychain
from lamella.transports.registry.settings import RegistrySettings

T = TypeVar("T")

REDIRECTS = 10
TOKEN_FETCHES = 2
_PASSING = frozenset({408, 429, 500, 502, 503, 504})
_ERROR_LIMIT = 64 << 10
_OK = frozenset({200})


class Session:
    """One endpoint as seen for one repository; thread-safe."""

    def __init__(
        self,
        endpoint: Endpoint,
        repository: str,
        *,
        settings: RegistrySettings,
        keychain: Keychain,
        scopes: tuple[str, ...],
    ) -> None:
        self.endpoint = endpoint
        self.repository = repository
        self.where = f"{endpoint.name}/{repository}"
        self.settings = settings
        self.scopes = scopes
        self._transport = Transport(endpoint, settings)
        self._auth = Authorizer(endpoint, repository, keychain, settings)
        # Where an authority was given, TLS is wanted, and nothing else will do.
        sure = len(endpoint.schemes) == 1 or self._transport.trust.is_vouched()
        self._scheme: str | None = endpoint.schemes[0] if sure else None
        self._lock = threading.Lock()

    def attempts(self) -> Attempts:
        """Start counting the tries of a task."""
        # Another server stands behind a mirror: it is not worth waiting for.
        retries = 1 if self.endpoint.mirror else RETRIES
        return Attempts(self.settings, self._transport.closed, retries=retries)

    def location(self, tail: str) -> Location:
        """Return where *tail* of the repository (``blobs/…``) is."""
        return self.root(f"{self.repository}/{tail}")

    def root(self, tail: str = "") -> Location:
        """Return ``/v2/`` and what follows, finding out the scheme first where there is a choice."""
        return Location(self._origin(), f"{self.endpoint.prefix}/v2/{tail}")

    def request(
        self,
        method: str,
        location: Location,
        read: Callable[[Answer], T],
        *,
        what: str,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        scopes: tuple[str, ...] | None = None,
        expected: frozenset[int] = _OK,
    ) -> T:
        """Send an idempotent request until it is answered with one of *expected*, and return what *read* makes of it.

        *what* names the thing asked for in errors.
        """
        attempts = self.attempts()
        while True:
            try:
                with self.exchange(method, location, headers=headers, body=body, scopes=scopes) as answer:
                    if answer.status in expected:
                        return read(answer)
                    raise self.error(answer, what)
            except Fault as fault:
                attempts.failed(fault)

    def exchange(
        self,
        method: str,
        location: Location,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        scopes: tuple[str, ...] | None = None,
        patience: float | None = None,
    ) -> Answer:
        """Send a request once, authorized and redirected as need be, and return the answer, whatever its status."""
        wanted = self.scopes if scopes is None else scopes
        renewals = hops = 0
        while True:
            origin = self._origin()
            own = location.origin == origin
            used = self._auth.header(wanted, origin, self._fetch_token) if own else None
            sent = dict(headers or {})
            if used is not None:
                sent["Authorization"] = used
            answer = self._transport.send(method, location, sent, body, patience=patience)
            if answer.status == 401 and own:
                answer.discard()
                if renewals == TOKEN_FETCHES:
                    raise Unauthorized(
                        f"{self.where}: access denied, with fresh credentials too;"
                        f" run: lamella login {self.endpoint.name}"
                    )
                renewals += 1
                self._auth.renew(answer, used, wanted, origin, self._fetch_token)
            elif answer.status in {307, 308} or (answer.status in {301, 302, 303} and method in {"GET", "HEAD"}):
                answer.discard()
                hops += 1
                if hops > REDIRECTS:
                    raise InvalidArgument(f"{self.where}: more than {REDIRECTS} redirects; see the registry's storage")
                location = self._redirected(answer, location)
            else:
                return answer

    def error(self, answer: Answer, what: str) -> LamellaError:
        """Make the error for an answer that was not hoped for; the server's own words are cut to a line."""
        status = answer.status
        said = _said(answer)
        detail = f": {said}" if said else ""
        if status in _PASSING:
            reason = "too many requests" if status == 429 else f"status {status}"
            wait = retry_after(answer.header("Retry-After"))
            return Fault(f"{self.where}: {reason} for {what}{detail}", retry_after=wait)
        if status in {401, 403}:
            return Unauthorized(
                f"access denied for {what} of {self.where}, repository does not exist or may require"
                f" 'lamella login {self.endpoint.name}'{detail}"
            )
        if status == 404:
            return NotFound(f"{what} not found in {self.where}{detail}")
        if status >= 500:
            return Unavailable(f"{self.where}: status {status} for {what}{detail}")
        return InvalidArgument(f"{self.where} refused {what} with status {status}{detail}")

    def close(self) -> None:
        """Cut what is under way."""
        self._transport.close()

    def _redirected(self, answer: Answer, location: Location) -> Location:
        target = parse_location(answer.header("Location"), base=location, what=f"{self.where}: redirect")
        if location.origin.scheme == "https" and target.origin.scheme != "https":
            raise InvalidArgument(f"{self.where}: redirected from https to {target.shown}, which is refused")
        here = self.endpoint.origin.host
        hidden = is_loopback(target.origin.host) or is_link_local(target.origin.host)
        if hidden and not (is_loopback(here) or is_link_local(here)):
            raise InvalidArgument(f"{self.where}: redirected to this machine ({target.shown}), which is refused")
        return target

    def _fetch_token(
        self,
        method: str,
        location: Location,
        headers: Mapping[str, str],
        body: Body | None,
        read: Callable[[Answer], bytes],
    ) -> bytes:
        """Ask a token server; what it redirects to is not followed, since the credentials are for it alone."""
        attempts = self.attempts()
        while True:
            try:
                with self._transport.send(method, location, headers, body) as answer:
                    if answer.status not in _PASSING:
                        return read(answer)
                    wait = retry_after(answer.header("Retry-After"))
                    fault = Fault(f"{location.shown}: status {answer.status} for a token", retry_after=wait)
            except Fault as problem:
                fault = problem
            attempts.failed(fault)

    def _origin(self) -> Origin:
        with self._lock:
            if self._scheme is None:
                self._scheme = self._find_scheme()
            return with_scheme(self.endpoint, self._scheme)

    def _find_scheme(self) -> str:
        """Find out whether an insecure registry speaks TLS: plain HTTP is taken only if it does not."""
        attempts = self.attempts()
        while True:
            try:
                return self._probe("https")
            except Fault as fault:
                if not fault.handshake:
                    attempts.failed(fault)
                    continue
                try:
                    return self._probe("http")
                except Fault as plain:
                    # Neither: what is wrong with TLS is the better answer if plain HTTP is not spoken at all.
                    attempts.failed(plain if plain.retryable else fault)

    def _probe(self, scheme: str) -> str:
        origin = with_scheme(self.endpoint, scheme)
        with self._transport.send("GET", Location(origin, f"{self.endpoint.prefix}/v2/"), {}) as answer:
            if scheme == "http" and answer.status == 400:
                raise Fault(f"{self.where}: it speaks neither a TLS that is safe nor plain HTTP", retryable=False)
            answer.discard()
        return scheme


def _said(answer: Answer) -> str:
    """Return the first error of a registry's error document as one printable line, or nothing.

    Its code is put as Docker puts it: ``manifest unknown``, ``denied``.
    """
    try:
        document = decode_object(answer.read_all(_ERROR_LIMIT, "error"), limit=_ERROR_LIMIT, what="error")
    except (Fault, InvalidArgument):
        return ""
    errors = document.get("errors")
    first = errors[0] if isinstance(errors, list) and errors else None
    if not isinstance(first, dict):
        return ""
    code, message = (word if isinstance(word, str) else "" for word in (first.get("code"), first.get("message")))
    code = code.lower().replace("_", " ")
    text = ": ".join(dict.fromkeys(word for word in (code, message) if word))
    return "".join(char if char.isprintable() else " " for char in text)[:200]
