"""Credentials in Docker's and containers' files and in credential helpers."""

from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from lamella.errors import InvalidArgument, Unavailable
from lamella.transports.registry.keychain import HUB_KEY, Credentials, Keychain

HELPER = """#!/bin/sh
# A credential helper that keeps one secret a file, named for the host.
set -eu
dir={dir}
case $1 in
get)
    host=$(cat | tr '/:' '__')
    if [ "$host" = broken.example ]; then echo '{{"Secret":"hush"'; exit 3; fi
    if [ ! -e "$dir/$host" ]; then echo 'credentials not found in native keychain'; exit 1; fi
    cat "$dir/$host" ;;
store)
    cat >"$dir/incoming"
    mv "$dir/incoming" "$dir/$(sed 's/.*"ServerURL": *"\\([^"]*\\)".*/\\1/' "$dir/incoming" | tr '/:' '__')" ;;
erase) rm "$dir/$(cat | tr '/:' '__')" ;;
esac
"""


def auth(username: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{username}:{password}".encode()).decode()}


def write(path: Path, document: dict[str, Any]) -> Path:
    path.write_text(json.dumps(document))
    return path


@pytest.fixture
def helper(tmp_path: Path) -> dict[str, str]:
    """Install docker-credential-test; returns the environment it is found in."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "secrets").mkdir()
    program = tmp_path / "bin" / "docker-credential-test"
    program.write_text(HELPER.format(dir=tmp_path / "secrets"))
    program.chmod(0o755)
    return {"PATH": f"{tmp_path}/bin:/usr/bin:/bin"}


@pytest.mark.parametrize("key", ["reg.example:5000", "https://reg.example:5000", "http://reg.example:5000/v1/"])
def test_a_host_is_found_in_every_spelling_of_its_key(tmp_path: Path, key: str) -> None:
    config = write(tmp_path / "config.json", {"auths": {key: auth("me", "pass:word"), "other.example": {}}})
    keychain = Keychain.from_files([config])
    assert keychain.find("reg.example:5000") == Credentials("me", "pass:word")
    assert keychain.find("reg.example") is None
    assert keychain.find("other.example") is None


@pytest.mark.parametrize("key", [HUB_KEY, "docker.io", "index.docker.io", "registry-1.docker.io"])
def test_docker_hub_has_many_names(tmp_path: Path, key: str) -> None:
    keychain = Keychain.from_files([write(tmp_path / "config.json", {"auths": {key: auth("me", "x")}})])
    assert keychain.find("docker.io") == Credentials("me", "x")


def test_files_are_asked_in_order_and_may_be_missing(tmp_path: Path) -> None:
    first = write(tmp_path / "a.json", {"auths": {"one.example": auth("a", "1")}})
    second = write(tmp_path / "b.json", {"auths": {"one.example": auth("b", "2"), "two.example": auth("b", "3")}})
    keychain = Keychain.from_files([tmp_path / "none.json", first, second])
    assert keychain.find("one.example") == Credentials("a", "1")
    assert keychain.find("two.example") == Credentials("b", "3")


def test_auth_json_may_keep_credentials_for_a_part_of_a_registry(tmp_path: Path) -> None:
    entries = {
        "reg.example": auth("all", "1"),
        "reg.example/team": auth("team", "2"),
        "reg.example/team/app": auth("app", "3"),
    }
    keychain = Keychain.from_files([write(tmp_path / "auth.json", {"auths": entries})])
    names = [keychain.find("reg.example", name).username for name in ("x", "team/y", "team/app", "team/app/z")]  # type: ignore[union-attr]
    assert names == ["all", "team", "app", "app"]


def test_tokens_are_read_too(tmp_path: Path) -> None:
    entries = {"a.example": {**auth("me", ""), "identitytoken": "it"}, "b.example": {"registrytoken": "rt"}}
    keychain = Keychain.from_files([write(tmp_path / "config.json", {"auths": entries})])
    assert keychain.find("a.example") == Credentials("me", "", "it")
    assert keychain.find("b.example") == Credentials(registry_token="rt")


def test_credentials_do_not_show() -> None:
    assert "secret" not in repr(Credentials("me", "secret"))
    assert "secret" not in str(Credentials("me", "secret"))
    assert "secret" not in f"{Credentials('me', 'secret')}"


@pytest.mark.parametrize(
    "document",
    [
        "{not json",
        "[]",
        '{"auths": []}',
        '{"auths": {"reg.example": {"auth": "*"}}}',
        '{"auths": {"reg.example": {"auth": "bm9jb2xvbg=="}}}',
        '{"auths": {"reg.example": 3}}',
        '{"credsStore": "../../bin/sh"}',
        '{"credsStore": ["x"]}',
        '{"auths": {}, "auths": {}}',
    ],
)
def test_a_damaged_file_is_an_error_and_not_anonymity(tmp_path: Path, document: str) -> None:
    (tmp_path / "config.json").write_text(document)
    with pytest.raises(InvalidArgument, match=r"config\.json"):
        Keychain.from_files([tmp_path / "config.json"]).find("reg.example")


def test_storing_keeps_everything_else_and_is_for_the_owner_only(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    write(config, {"HttpHeaders": {"X": "é"}, "auths": {"https://reg.example/v1/": auth("old", "1")}})
    config.chmod(0o644)
    keychain = Keychain.from_files([config])
    assert keychain.store("reg.example", Credentials("new", "2")) == config
    assert keychain.store("docker.io", Credentials("hub", "3")) == config
    document = json.loads(config.read_text())
    assert document == {
        "HttpHeaders": {"X": "é"},
        "auths": {"reg.example": auth("new", "2"), HUB_KEY: auth("hub", "3")},
    }
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert Keychain.from_files([config]).find("reg.example") == Credentials("new", "2")


def test_the_file_and_its_directory_are_made(tmp_path: Path) -> None:
    config = tmp_path / "home" / ".docker" / "config.json"
    keychain = Keychain.from_files([config])
    keychain.store("reg.example", Credentials("me", "pass"))
    assert stat.S_IMODE(config.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    assert sorted(path.name for path in config.parent.iterdir()) == [".config.json.lock", "config.json"]


def test_a_file_reached_by_a_link_stays_one(tmp_path: Path) -> None:
    real = write(tmp_path / "real.json", {})
    link = tmp_path / "config.json"
    link.symlink_to(real)
    Keychain.from_files([link]).store("reg.example", Credentials("me", "pass"))
    assert link.is_symlink()
    assert "reg.example" in real.read_text()


def test_erasing_forgets_every_spelling(tmp_path: Path) -> None:
    entries = {"reg.example": auth("a", "1"), "https://reg.example": auth("a", "2"), "other.example": auth("b", "3")}
    config = write(tmp_path / "config.json", {"auths": entries})
    keychain = Keychain.from_files([config])
    assert keychain.erase("reg.example")
    assert not keychain.erase("reg.example")
    assert list(json.loads(config.read_text())["auths"]) == ["other.example"]
    assert not Keychain.from_files([tmp_path / "none.json"]).erase("reg.example")


def test_a_helper_keeps_the_secrets(tmp_path: Path, helper: dict[str, str]) -> None:
    config = write(
        tmp_path / "config.json", {"credsStore": "test", "auths": {"reg.example": auth("old", "in the clear")}}
    )
    keychain = Keychain.from_files([config], environment=helper)
    assert keychain.store("reg.example", Credentials("me", "secret")) is None
    assert json.loads(config.read_text()) == {"credsStore": "test", "auths": {"reg.example": {}}}
    assert keychain.find("reg.example") == Credentials("me", "secret")
    assert os.listdir(tmp_path / "secrets") == ["reg.example"]
    assert keychain.erase("reg.example")
    assert keychain.find("reg.example") is None
    assert not keychain.erase("reg.example")


def test_a_helper_may_be_for_one_registry_only(tmp_path: Path, helper: dict[str, str]) -> None:
    entries = {"other.example": auth("plain", "1")}
    config = write(tmp_path / "config.json", {"credHelpers": {"reg.example": "test"}, "auths": entries})
    keychain = Keychain.from_files([config], environment=helper)
    keychain.store("reg.example", Credentials("me", identity_token="it"))
    assert keychain.find("reg.example") == Credentials(identity_token="it")
    assert keychain.find("other.example") == Credentials("plain", "1")


def test_a_helper_that_fails_is_an_error_that_tells_no_secret(tmp_path: Path, helper: dict[str, str]) -> None:
    config = write(tmp_path / "config.json", {"credsStore": "test"})
    with pytest.raises(Unavailable, match="docker-credential-test get failed with code 3") as caught:
        Keychain.from_files([config], environment=helper).find("broken.example")
    assert "hush" not in str(caught.value)
    write(config, {"credsStore": "absent"})
    with pytest.raises(Unavailable, match="docker-credential-absent"):
        Keychain.from_files([config], environment=helper).find("reg.example")


def test_what_login_tries_is_in_memory_only() -> None:
    keychain = Keychain.of("index.docker.io", Credentials("me", "x"))
    assert keychain.find("docker.io") == Credentials("me", "x")
    assert keychain.find("reg.example") is None
    with pytest.raises(InvalidArgument):
        keychain.store("reg.example", Credentials("me", "x"))
