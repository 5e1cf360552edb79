"""``RUN --mount``: keys, aliases, values, and what does not go together."""

from __future__ import annotations

import pytest

from lamella.build.dockerfile.expand import expand
from lamella.build.dockerfile.instructions import Mount
from lamella.build.dockerfile.mounts import expand_mount, parse_mount
from lamella.errors import InvalidArgument


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        ("target=/a", Mount(target="/a")),
        ("dst=/a,src=b,from=c", Mount(target="/a", source="b", stage="c")),
        ("destination=/a,source=b,rw", Mount(target="/a", source="b", writable=True)),
        ("TYPE=Bind,target=/a,readonly", Mount(target="/a", writable=False)),
        ("target=/a,ro=false", Mount(target="/a", writable=True)),
        ("target=/a,readwrite=F", Mount(target="/a", writable=False)),
        ("type=cache,target=/a,id=i,sharing=Locked", Mount("cache", "/a", id="i", sharing="locked")),
        ("type=cache,target=/a,mode=0750,uid=1,gid=2", Mount("cache", "/a", mode=0o750, uid=1, gid=2)),
        ("type=tmpfs,target=/a,size=64m", Mount("tmpfs", "/a", size=64 << 20)),
        ("type=secret,id=s,required,env=S", Mount("secret", id="s", required=True, env="S")),
        ("type=secret,target=/a,required=false", Mount("secret", "/a")),
        ("type=ssh", Mount("ssh")),
        ("type=ssh,id=i,target=/s,required=1,mode=777", Mount("ssh", "/s", id="i", required=True, mode=0o777)),
        ('target=/a,"source=b,c"', Mount(target="/a", source="b,c")),
        ("target=/a=b", Mount(target="/a=b")),
    ],
)
def test_fields_have_dockers_names(text: str, mount: Mount) -> None:
    assert parse_mount(text) == mount._replace(text=text)
    assert expand_mount(parse_mount(text), lambda word: expand(word, {})) == mount._replace(text=text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unexpected key '' in ''"),
        ("type=bnd", 'unsupported mount type "bnd" (did you mean bind?)'),
        ("type=volume,target=/a", 'unsupported mount type "volume"'),
        ("targt=/a", "unexpected key 'targt' in 'targt=/a' (did you mean target?)"),
        ("target", "invalid field 'target' must be a key=value pair"),
        ("target=/a,ro=yes", "invalid value for ro: yes"),
        ("type=cache,target=/a,sharing=share", 'unsupported sharing value "share" (did you mean shared?)'),
        ("type=cache,target=/a,mode=8", "invalid value 8 for mode"),
        ("type=cache,target=/a,uid=-1", "invalid value -1 for uid"),
        ("type=cache,target=/a,gid=4294967296", "invalid value 4294967296 for gid"),
        ("target=/a,size=1", "unexpected key 'size' for mount type 'bind'"),
        ("type=tmpfs,target=/a,size=big", "invalid value for size: big"),
        ("required,type=secret,id=a", "unexpected key 'required' for mount type 'bind'"),
        ("type=bind,target=/a,uid=1", 'uid not allowed for "bind" type mounts'),
        ("type=tmpfs,target=/a,mode=1", 'mode not allowed for "tmpfs" type mounts'),
        ("type=bind,target=/a,sharing=shared", "invalid cache sharing set for bind mount"),
        ("type=secret", "invalid secret mount. one of source, target required"),
        ("type=secret,id=a,source=b", "both source and id can't be set"),
        ("type=secret,id=a,from=b", "secret mount should not have a from"),
        ("type=secret,id=a,sharing=shared", "secret mount should not define sharing"),
        ("target=/a,from=$stage", "'from' doesn't support variable expansion, define alias stage instead"),
        ("$x=y", "unexpected key '$x' in '$x=y'"),
        ('target="a', "failed to parse csv mounts"),
        ('"target=a', "failed to parse csv mounts"),
        ('"target=a"b', "failed to parse csv mounts"),
    ],
)
def test_what_no_mount_can_be_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_mount(text)
    assert message in str(caught.value)


def test_two_quotes_in_a_quoted_field_are_one() -> None:
    assert parse_mount('"target=/a ""b""",ro').target == '/a "b"'


def test_variables_wait_for_the_build() -> None:
    mount = parse_mount("type=cache,target=$t,id=i-$i,uid=$u,sharing=$s")
    assert (mount.kind, mount.target, mount.id, mount.uid, mount.sharing) == ("cache", "$t", "i-$i", None, "")
    full = expand_mount(mount, lambda word: expand(word, {"t": "/a b", "i": "1", "u": "7", "s": "private"}))
    assert (full.target, full.id, full.uid, full.sharing) == ("/a b", "i-1", 7, "private")


def test_the_kind_may_be_a_variable() -> None:
    mount = parse_mount("type=$k,target=/a,size=1k")
    assert expand_mount(mount, lambda word: expand(word, {"k": "tmpfs"})).size == 1024
    with pytest.raises(InvalidArgument, match="unexpected key 'size' for mount type 'ssh'"):
        expand_mount(mount, lambda word: expand(word, {"k": "ssh"}))


def test_a_variable_with_a_bad_value_is_refused_when_it_is_known() -> None:
    mount = parse_mount("type=cache,target=/a,mode=$m")
    with pytest.raises(InvalidArgument, match="invalid value rw for mode"):
        expand_mount(mount, lambda word: expand(word, {"m": "rw"}))
