"""What a registry asks for and what it gets: challenges, tokens, basic credentials.

Nothing here decides where a request goes; ``session`` attaches what this gives out to the registry's own origin only.
"""

from __future__ import annotations

import base64
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, NoReturn, TypeAlias

from lamella.errors import InvalidArgument, Unauthorized, Unsupported
from lamella.model.documents import decode_object
from lamella.transports.registry.hosts import Endpoint, Location, Origin, may_issue_tokens, parse_location
from lamella.transports.registry.http import Answer, Body, Fault
from lamella.transports.registry.keychain import Credentials, Keychain
from lamella.transports.registry.settings import RegistrySettings

TOKEN_LIMIT = 1 << 20
_CHALLENGE_LIMIT = 8 << 10
_CLIENT = "lamella"
#: What the token specification says of a token without a time to live.
_DEFAULT_LIFE = 60.0
_PARAMETER = re.compile(r"""[\s,]*([\w!#$%&'*+.^`|~-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"=]+))""", re.ASCII)
_SCHEME = re.compile(r"[\s,]*([A-Za-z][A-Za-z0-9-]*)(?=\s|,|$)", re.ASCII)
_TOKEN = re.compile(r"[\x21-\x7e]+")

Fetch: TypeAlias = Callable[[str, Location, Mapping[str, str], Body | None, Callable[[Answer], bytes]], bytes]
"""Sends one token request, retried as all requests are, and returns what the function makes of the answer."""


class Challenge(NamedTuple):
    """One way in that a 401 offers."""

    scheme: str
    parameters: Mapping[str, str]


class _Grant(NamedTuple):
    header: str
    until: float


def parse_challenges(values: Sequence[str]) -> list[Challenge]:
    """Parse ``WWW-Authenticate`` headers; what is malformed ends the list, what is too long is refused."""
    found: list[Challenge] = []
    text = ", ".join(values)
    if len(text) > _CHALLENGE_LIMIT:
        raise InvalidArgument("the registry's challenge is too long")
    position = 0
    parameters: dict[str, str] = {}
    while position < len(text):
        match = _PARAMETER.match(text, position)
        if match is not None and found:
            quoted = match[2]
            value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else match[3]
            parameters[match[1].lower()] = value
        else:
            match = _SCHEME.match(text, position)
            if match is None:
                break
            parameters = {}
            found.append(Challenge(match[1].lower(), parameters))
        position = match.end()
    return found


class Authorizer:
    """Keeps what opens one registry; thread-safe, so that many transfers share one token and one renewal."""

    def __init__(self, endpoint: Endpoint, repository: str, keychain: Keychain, settings: RegistrySettings) -> None:
        self._endpoint = endpoint
        self._repository = repository
        self._keychain = keychain
        self._token_hosts = settings.token_hosts
        self._lock = threading.Lock()
        # Guarded by the lock:
        self._grants: dict[tuple[str, ...], _Grant] = {}
        self._basic: str | None = None
        self._bearer: Challenge | None = None
        self._credentials: Credentials | None = None
        self._looked = False

    def header(self, scopes: tuple[str, ...], origin: Origin, fetch: Fetch) -> str | None:
        """Return the Authorization for a request, renewed before its time runs out; None while none was asked for."""
        with self._lock:
            if self._basic is not None:
                return self._basic
            if self._bearer is None:
                return None
            grant = self._grants.get(scopes)
            if grant is None or grant.until <= time.monotonic():
                grant = self._grants[scopes] = self._fetch(self._bearer, scopes, origin, fetch)
            return grant.header

    def renew(self, answer: Answer, used: str | None, scopes: tuple[str, ...], origin: Origin, fetch: Fetch) -> None:
        """Answer a 401 that *used* led to.  Raises Unauthorized if there is nothing more to offer.

        If another thread has renewed it meanwhile, there is nothing to do.
        """
        challenges = {
            challenge.scheme: challenge
            for challenge in reversed(parse_challenges(answer.headers.getlist("WWW-Authenticate")))
        }
        with self._lock:
            if "bearer" in challenges:
                grant = self._grants.get(scopes)
                if grant is not None and grant.header != used and grant.until > time.monotonic():
                    return
                self._basic = None
                self._grants[scopes] = self._fetch(challenges["bearer"], scopes, origin, fetch)
                # Only a challenge that led to a token is worth being asked again.
                self._bearer = challenges["bearer"]
            elif "basic" in challenges:
                if self._basic is not None and self._basic != used:
                    return
                self._basic = self._basic_header(used)
            elif challenges:
                raise Unsupported(
                    f"{self._endpoint.name} asks for {', '.join(challenges)[:100]}, which is not supported"
                )
            else:
                raise Unauthorized(f"{self._endpoint.name} refused the request without saying how to log in")

    def _found(self) -> Credentials | None:
        if not self._looked:
            self._credentials = self._keychain.find(self._endpoint.name, self._repository)
            self._looked = True
        return self._credentials

    def _basic_header(self, used: str | None) -> str:
        credentials = self._found()
        name = self._endpoint.name
        if credentials is None or not credentials.username:
            raise Unauthorized(f"no basic auth credentials for {name}, which wants them; run: lamella login {name}")
        header = _encode_basic(credentials)
        if header == used:
            self._refused()
        return header

    def _refused(self) -> NoReturn:
        name = self._endpoint.name
        raise Unauthorized(f"{name} refused the user name and password; run: lamella login {name}")

    def _fetch(self, challenge: Challenge, scopes: tuple[str, ...], origin: Origin, fetch: Fetch) -> _Grant:
        """Get a token for *scopes* and no others, from a realm that may have the credentials."""
        credentials = self._found()
        if credentials is not None and credentials.registry_token:
            return _Grant(_bearer_header(credentials.registry_token, self._endpoint.name), float("inf"))
        realm = self._realm(challenge, origin)
        service = challenge.parameters.get("service", "")
        if credentials is not None and credentials.identity_token:
            raw = self._post(realm, service, scopes, credentials, fetch)
        else:
            raw = self._get(realm, service, scopes, credentials, fetch)
        what = f"token from {realm.shown}"
        document = decode_object(raw, limit=TOKEN_LIMIT, what=what)
        token = document.get("token") or document.get("access_token")
        if not isinstance(token, str):
            raise InvalidArgument(f"{what}: there is none in the answer")
        life = document.get("expires_in")
        seconds = float(life) if isinstance(life, (int, float)) and not isinstance(life, bool) else _DEFAULT_LIFE
        # A transfer that starts with the token's last breath would only come back for another.
        usable = max(1.0, min(seconds, 86400.0) * 0.9)
        return _Grant(_bearer_header(token, what), time.monotonic() + usable)

    def _realm(self, challenge: Challenge, origin: Origin) -> Location:
        text = challenge.parameters.get("realm", "")
        realm = parse_location(text, what=f"token server of {self._endpoint.name}")
        if not may_issue_tokens(realm.origin, origin, self._endpoint.name, self._token_hosts):
            raise Unauthorized(
                f"{self._endpoint.name} names {realm.shown} as its token server, which is not of its domain or not"
                f" https; if that is right, allow token host {realm.origin.authority}"
            )
        return realm

    def _get(
        self, realm: Location, service: str, scopes: tuple[str, ...], credentials: Credentials | None, fetch: Fetch
    ) -> bytes:
        from urllib.parse import urlencode

        query = [("service", service)] if service else []
        query += [("scope", scope) for scope in scopes]
        headers: dict[str, str] = {}
        if credentials is not None and credentials.username:
            query.insert(0, ("account", credentials.username))
            headers["Authorization"] = _encode_basic(credentials)
        # Docker spells scopes with their colons and slashes, and some servers want them so.
        target = realm.with_query(urlencode(query, safe=":/,")) if query else realm
        return fetch("GET", target, headers, None, self._body)

    def _post(
        self, realm: Location, service: str, scopes: tuple[str, ...], credentials: Credentials, fetch: Fetch
    ) -> bytes:
        from urllib.parse import urlencode

        form = {
            "grant_type": "refresh_token",
            "service": service,
            "client_id": _CLIENT,
            "scope": " ".join(scopes),
            "refresh_token": credentials.identity_token,
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return fetch("POST", realm, headers, Body.of(urlencode(form).encode()), self._body)

    def _body(self, answer: Answer) -> bytes:
        shown = answer.location.shown
        if answer.status == 200:
            return answer.read_all(TOKEN_LIMIT, f"token from {shown}")
        if answer.status in {400, 401, 403}:
            name = self._endpoint.name
            raise Unauthorized(f"{name}: {shown} gave no token ({answer.status}); run: lamella login {name}")
        raise Fault(f"{shown} gave no token: status {answer.status}", retryable=False)


def _encode_basic(credentials: Credentials) -> str:
    pair = f"{credentials.username}:{credentials.password}".encode()
    return f"Basic {base64.b64encode(pair).decode()}"


def _bearer_header(token: str, what: str) -> str:
    if len(token) > 256 << 10 or _TOKEN.fullmatch(token) is None:
        raise InvalidArgument(f"{what}: it has characters that no token has")
    return f"Bearer {token}"
