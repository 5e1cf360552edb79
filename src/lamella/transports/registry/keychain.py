"""Credentials at rest: Docker's ``config.json``, containers' ``auth.json`` and their credential helpers.

Commit point of a change: the rename in :func:`lamella.fs.atomic.write_file`, under a lock beside the file, mode 0600.
Where the files are, and what a user typed, is for the front end; what a registry gets to see is for ``auth``.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from lamella.errors import InvalidArgument, Unavailable
from lamella.model.documents import decode_object

#: Docker's key for Docker Hub, older than references.
HUB_KEY = "https://index.docker.io/v1/"
_HUB_HOSTS = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_FILE_LIMIT = 8 << 20
_HELPER_TIME = 120.0
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,100}")
_NOT_FOUND = "credentials not found in native keychain"
_TOKEN_USER = "<token>"  # noqa: S105 - the user name that marks a secret as an identity token


class Credentials(NamedTuple):
    """What opens a registry; never shown.

    *identity_token* is for the token server (OAuth refresh), *registry_token* for the registry itself.
    """

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""

    def __repr__(self) -> str:  # type: ignore[explicit-override]  # override() came with Python 3.12
        return "Credentials(***)"


class Keychain:
    """Finds, keeps and forgets credentials by a registry's host.

    The first file is the one written to.  *environment* is what credential helpers get, PATH included.
    """

    def __init__(
        self,
        files: Sequence[Path] = (),
        *,
        environment: Mapping[str, str] = MappingProxyType({}),
        given: Mapping[str, Credentials] = MappingProxyType({}),
    ) -> None:
        self._files = tuple(files)
        self._environment = environment
        self._given = {_normal(host): credentials for host, credentials in given.items()}

    @classmethod
    def from_files(cls, files: Sequence[Path], *, environment: Mapping[str, str] = MappingProxyType({})) -> Keychain:
        """Look in *files* in order; those that do not exist hold nothing."""
        return cls(files, environment=environment)

    @classmethod
    def of(cls, host: str, credentials: Credentials) -> Keychain:
        """Hold just these, in memory: what ``login`` tries before it stores them."""
        return cls(given={host: credentials})

    def find(self, host: str, repository: str = "") -> Credentials | None:
        """Return the credentials for *host*, or those kept for the closest prefix of *repository* on it.

        A helper that fails is an error, never a reason to go on without credentials.
        """
        host = _normal(host)
        if host in self._given:
            return self._given[host]
        for path in self._files:
            document = _read(path)
            found = self._from_document(document, host, repository, path) if document else None
            if found is not None:
                return found
        return None

    def store(self, host: str, credentials: Credentials) -> Path | None:
        """Keep *credentials* for *host*: in the helper the first file names, else in that file (0600, atomically).

        Returns the file if the secret now lies in it.
        """
        path = self._writable()
        with _changing(path) as document:
            helper = _helper_for(document, _normal(host), path)
            auths = _table(document, "auths", path)
            if helper is not None:
                secret = credentials.identity_token or credentials.password
                username = _TOKEN_USER if credentials.identity_token else credentials.username
                request = {"ServerURL": _key(host), "Username": username, "Secret": secret}
                self._ask(helper, "store", _encode(request))
                entry: dict[str, object] = {}
            else:
                entry = _entry(credentials)
            _drop(auths, _normal(host))
            auths[_key(host)] = entry
            document["auths"] = auths
        return None if helper else path

    def erase(self, host: str) -> bool:
        """Forget the credentials for *host* in the first file and its helper; tell whether there were any."""
        path = self._writable()
        if _read(path) is None:
            return False
        with _changing(path) as document:
            helper = _helper_for(document, _normal(host), path)
            auths = _table(document, "auths", path)
            dropped = _drop(auths, _normal(host))
            if dropped:
                document["auths"] = auths
            if helper is not None and self._get(helper, host) is not None:
                self._ask(helper, "erase", _key(host).encode())
                dropped = True
        return dropped

    def _writable(self) -> Path:
        if not self._files:
            raise InvalidArgument("there is no file to keep credentials in; name one")
        return self._files[0]

    def _from_document(self, document: dict[str, object], host: str, repository: str, path: Path) -> Credentials | None:
        helper = _helper_for(document, host, path)
        if helper is not None:
            found = self._get(helper, host)
            if found is not None:
                return found
        auths = _table(document, "auths", path)
        prefix = repository
        while prefix:
            entry = auths.get(f"{host}/{prefix}")
            if entry is not None:
                return _credentials(entry, f"{host}/{prefix}", path)
            prefix = prefix.rpartition("/")[0]
        for key, entry in auths.items():
            if _normal(key) == host and entry:
                return _credentials(entry, host, path)
        return None

    def _get(self, helper: str, host: str) -> Credentials | None:
        output = self._ask(helper, "get", _key(host).encode())
        if output is None:
            return None
        answer = decode_object(output, limit=1 << 20, what=f"answer of docker-credential-{helper}")
        username, secret = answer.get("Username"), answer.get("Secret")
        if not isinstance(username, str) or not isinstance(secret, str):
            raise Unavailable(f"docker-credential-{helper} gave no user name and secret for {host}")
        if username == _TOKEN_USER:
            return Credentials(identity_token=secret)
        return Credentials(username, secret)

    def _ask(self, helper: str, action: str, stdin: bytes) -> bytes | None:
        """Run a credential helper; secrets go by its standard input.  None is what it says of an unknown host."""
        from lamella.linux.spawn import DEFAULT_PATH, find_tool, run

        name = f"docker-credential-{helper}"
        environment = dict(self._environment) or {"PATH": DEFAULT_PATH}
        tool = find_tool(name, package=name, path=environment.get("PATH", DEFAULT_PATH))
        answer = run([tool, action], env=environment, stdin=stdin, timeout=_HELPER_TIME)
        if answer.code == 0:
            return answer.stdout
        said = (answer.stdout.strip() or answer.stderr.strip()).decode(errors="replace").partition("\n")[0]
        if action in {"get", "erase"} and _NOT_FOUND in said:
            return None
        # What `store` was given is not in its output by the protocol; what `get` printed may hold a secret.
        reason = "" if action == "get" and said.startswith("{") else f": {said[:200]}"
        raise Unavailable(f"{name} {action} failed with code {answer.code}{reason}; see that it works, or unset it")


def _normal(key: str) -> str:
    """Reduce a key of ``auths`` (a host, or a URL of Docker's first registry protocol) to a host."""
    bare = key.removeprefix("https://").removeprefix("http://")
    host, slash, rest = bare.partition("/")
    if slash and "://" not in key and rest not in {"", "v1", "v1/", "v2", "v2/"}:
        return bare  # a namespaced key of auth.json
    return "docker.io" if host in _HUB_HOSTS else host


def _key(host: str) -> str:
    return HUB_KEY if _normal(host) == "docker.io" else _normal(host)


def _read(path: Path) -> dict[str, object] | None:
    try:
        with path.open("rb") as file:
            raw = file.read(_FILE_LIMIT + 1)
    except FileNotFoundError:
        return None
    if not raw.strip():
        return {}
    return decode_object(raw, limit=_FILE_LIMIT, what=str(path))


@contextmanager
def _changing(path: Path) -> Generator[dict[str, Any]]:
    """Yield the document for a change, locked against other changes; written if the block succeeds."""
    from lamella.fs.atomic import write_file
    from lamella.linux.locks import locked

    path = path.resolve()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(path.parent / f".{path.name}.lock", timeout=30):
        document: dict[str, Any] = _read(path) or {}
        before = _encode(document)
        yield document
        if _encode(document) != before:
            write_file(path, _encode(document, indent="\t") + b"\n", mode=0o600)


def _encode(document: Mapping[str, object], *, indent: str | None = None) -> bytes:
    import json

    return json.dumps(document, indent=indent, ensure_ascii=False).encode()


def _table(document: Mapping[str, object], key: str, path: Path) -> dict[str, object]:
    table = document.get(key)
    if table is None:
        return {}
    if not isinstance(table, dict):
        raise InvalidArgument(f"{path}: {key} is not an object")
    return table


def _drop(auths: dict[str, object], host: str) -> bool:
    old = [key for key in auths if _normal(key) == host]
    for key in old:
        del auths[key]
    return bool(old)


def _helper_for(document: Mapping[str, object], host: str, path: Path) -> str | None:
    """Return the helper for *host*: the registry's own, else the file's."""
    name: object = document.get("credsStore")
    for key, helper in _table(document, "credHelpers", path).items():
        if _normal(key) == host:
            name = helper
    if not name:
        return None
    if not isinstance(name, str) or _HELPER_NAME.fullmatch(name) is None:
        raise InvalidArgument(f"{path}: {str(name)[:100]!r} is not the name of a credential helper")
    return name


def _entry(credentials: Credentials) -> dict[str, object]:
    import base64

    pair = f"{credentials.username}:{credentials.password}".encode()
    entry: dict[str, object] = {"auth": base64.b64encode(pair).decode()}
    if credentials.identity_token:
        entry["identitytoken"] = credentials.identity_token
    if credentials.registry_token:
        entry["registrytoken"] = credentials.registry_token
    return entry


def _credentials(entry: object, host: str, path: Path) -> Credentials | None:
    """Read one entry of ``auths``; an empty one only says that a helper has them."""
    import base64
    import binascii

    if not isinstance(entry, dict):
        raise InvalidArgument(f"{path}: the entry of {host} is not an object")
    texts = {key: value for key, value in entry.items() if isinstance(value, str) and value}
    username, password = texts.get("username", ""), texts.get("password", "")
    if "auth" in texts:
        try:
            pair = base64.b64decode(texts["auth"], validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise InvalidArgument(f"{path}: the credentials of {host} are damaged; log in again") from None
        username, colon, password = pair.partition(":")
        if not colon:
            raise InvalidArgument(f"{path}: the credentials of {host} are damaged; log in again")
        password = password.rstrip("\0")  # Docker pads so on Windows
    found = Credentials(username, password, texts.get("identitytoken", ""), texts.get("registrytoken", ""))
    return found if any(found) else None
