"""RUN's ``--mount``: what each asks for, what of it counts for the cache, and what the container is given.

The content of a bind mount counts, and of all mounts how they are written; what a cache, a secret or an agent holds
does not.  The context is never mounted itself: a command gets a copy, made once a build, of what COPY would take, so
that it sees neither ignored files nor changes made meanwhile, and no link leads out of it.  Mount points that the image
lacks are made in the init layer and so never reach a layer.
"""

from __future__ import annotations

import os
import posixpath
import stat
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from lamella.build.context import SourceTree
from lamella.build.copyfiles import Manner, Owner, copy_source
from lamella.build.dockerfile import instructions as ast
from lamella.build.dockerfile.mounts import expand_mount
from lamella.build.snapshot import Snapshot
from lamella.build.sources import Source
from lamella.build.stage import Stage
from lamella.build.sums import source_sum
from lamella.errors import InvalidArgument, NotFound, Unsupported
from lamella.fs.rooted import Root
from lamella.model.gojson import encode
from lamella.runtime.spec import MountPoint
from lamella.store.cachemounts import CacheMounts
from lamella.store.initlayer import fill_init_layer

_SECRETS = "/run/secrets"
_AGENT = "/run/buildkit/ssh_agent.{}"
_MAX_SECRET = 500 << 10
_NAMESPACE = "BUILDKIT_CACHE_MOUNT_NS"


class Given(NamedTuple):
    """What a command gets: its mounts, and variables that no record shows."""

    mounts: tuple[MountPoint, ...]
    env: tuple[str, ...]


class _Content(NamedTuple):
    """Where the content of a bind mount, or the first content of a cache, comes from."""

    image: Snapshot | None
    """None is the context."""
    path: bytes
    """Clean, without links."""
    stat: os.stat_result
    digest: str


class _Planned(NamedTuple):
    """One mount, its variables replaced and its target made absolute."""

    mount: ast.Mount
    content: _Content | None = None

    @property
    def is_file(self) -> bool:
        """Tell whether a file is mounted."""
        if self.mount.kind in ("secret", "ssh"):
            return True
        content = self.content
        return self.mount.kind == "bind" and content is not None and not stat.S_ISDIR(content.stat.st_mode)


class RunMounts:
    """The mounts of one RUN; made before the cache is asked, opened when the command is to run."""

    def __init__(self, stage: Stage, mounts: Sequence[ast.Mount]) -> None:
        """Find what the mounts name; raises InvalidArgument, and NotFound for what is missing."""
        self._stage = stage
        self._services = stage.services
        agents = 0
        planned: list[_Planned] = []
        for written in mounts:
            mount = self._complete(written, agents)
            agents += mount.kind == "ssh"
            planned.append(_Planned(mount, self._find_content(mount)))
        self._planned = planned

    def inputs(self) -> list[object]:
        """Give what the result of the command depends on, for the cache."""
        return [
            [*item.mount._replace(text=""), None if item.content is None else item.content.digest]
            for item in self._planned
        ]

    def fill(self, merged: Path) -> None:
        """Make the init layer in the mounted root `merged`, with the mount points that the image lacks."""
        fill_init_layer(merged)
        with Root(merged) as root:
            for item in self._planned:
                if self._is_given(item.mount):
                    _make_mount_point(root, os.fsencode(item.mount.target), is_file=item.is_file)

    def _is_given(self, mount: ast.Mount) -> bool:
        """Tell whether there is anything to mount: a secret or an agent may be missing, or be a variable alone."""
        options = self._services.options
        if mount.kind == "secret":
            return mount.target != "" and mount.id in options.secrets
        return mount.kind != "ssh" or mount.id in options.ssh

    @contextmanager
    def opened(self) -> Generator[Given]:
        """Hold everything that is mounted; locks on caches are given back at the end."""
        given: list[MountPoint] = []
        env: list[str] = []
        with ExitStack() as stack:
            caches: list[_Planned] = []
            for item in self._planned:
                mount = item.mount
                if mount.kind == "bind":
                    given.append(self._bind(item, stack))
                elif mount.kind == "tmpfs":
                    size = () if mount.size is None else (f"size={mount.size}",)
                    given.append(MountPoint("tmpfs", mount.target, ("exec", *size), kind="tmpfs"))
                elif mount.kind == "secret":
                    self._secret(mount, stack, given, env)
                elif mount.kind == "ssh":
                    self._agent(mount, stack, given, env)
                else:
                    caches.append(item)
            given += self._caches(caches, stack)  # last: nothing else is waited for with a cache's lock held
            yield Given(tuple(given), tuple(env))

    # ------------------------------------------------------------------------------------------------ planning

    def _complete(self, written: ast.Mount, agents: int) -> ast.Mount:
        """Replace variables, and what was not written by its default."""
        mount = expand_mount(written, self._stage.state.expander())
        kind = mount.kind
        if kind == "secret":
            name = mount.source or mount.id or posixpath.basename(mount.target)
            target = mount.target or ("" if mount.env else f"{_SECRETS}/{posixpath.basename(name)}")
            mount = mount._replace(id=name, source="", target=target)
        elif kind == "ssh":
            name = mount.source or mount.id or "default"
            mount = mount._replace(id=name, source="", target=mount.target or _AGENT.format(agents))
        if not mount.target:
            if kind == "secret":
                return mount  # given in a variable alone
            raise InvalidArgument(f"--mount=type={kind} needs a target")
        target = posixpath.normpath(posixpath.join("/", self._stage.state.settings.working_dir, mount.target))
        target = "/" + target.lstrip("/")
        if target == "/" or "\0" in target:
            raise InvalidArgument(f'invalid mount target "{mount.target}"')
        mount = mount._replace(target=target)
        if kind == "cache":
            mount = mount._replace(id=mount.id or target, sharing=mount.sharing or "shared")
        return mount

    def _find_content(self, mount: ast.Mount) -> _Content | None:
        if mount.kind == "bind" and not mount.stage:
            return _find(self._services.tree, None, mount)
        if mount.kind not in ("bind", "cache") or not mount.stage:
            return None
        image = self._services.bases.find_source(mount.stage, self._stage.index)
        with self._services.files.read_only(image) as path, Root(path) as root:
            return _find(SourceTree(root, is_context=False), image, mount)

    # ------------------------------------------------------------------------------------------------ opening

    def _bind(self, item: _Planned, stack: ExitStack) -> MountPoint:
        mount, content, files = item.mount, item.content, self._services.files
        if content is None:
            raise AssertionError(mount)
        writable = mount.writable is True
        path = content.path
        if content.image is None:
            copy = files.context_copy(content.path, lambda directory: self._copy_context(content, directory))
            path = b"content"
            top = stack.enter_context(files.view(copy, writable=writable))
        elif writable:
            top = stack.enter_context(files.view(files.below(content.image), writable=True))
        else:
            top = stack.enter_context(files.read_only(content.image))
        source = os.path.join(top, os.fsdecode(path)) if path else str(top)
        _require_text(source)
        return MountPoint(source, mount.target, () if writable else ("ro",))

    def _copy_context(self, content: _Content, directory: Path) -> None:
        source = Source(b"content", content.digest, self._services.tree, content.path, content.stat)
        with Root(directory) as root:
            copy_source(source, root, b"/content", Manner(Owner(0, 0), None, self._now()))

    def _secret(self, mount: ast.Mount, stack: ExitStack, given: list[MountPoint], env: list[str]) -> None:
        value = self._services.options.secrets.get(mount.id)
        if value is None:
            if mount.required:
                raise NotFound(f"secret {mount.id}: not found; give it with --secret id={mount.id},src=FILE")
            return
        if len(value) > _MAX_SECRET:
            raise InvalidArgument(f"secret {mount.id} is larger than {_MAX_SECRET} bytes")
        if mount.env:
            if b"\0" in value:
                raise InvalidArgument(f"secret {mount.id} holds a null byte, which no variable can")
            try:
                env.append(f"{mount.env}={value.decode()}")
            except UnicodeDecodeError:
                raise InvalidArgument(f"secret {mount.id} is no text; mount it as a file") from None
        if mount.target:
            mode = 0o400 if mount.mode is None else mount.mode
            file = self._services.runner.secret_file(value, mode, mount.uid or 0, mount.gid or 0)
            given.append(MountPoint(str(stack.enter_context(file)), mount.target, ("ro",)))

    def _agent(self, mount: ast.Mount, stack: ExitStack, given: list[MountPoint], env: list[str]) -> None:
        socket = self._services.options.ssh.get(mount.id)
        if socket is None:
            if mount.required:
                raise NotFound(f"no ssh agent is forwarded as {mount.id}; give it with --ssh {mount.id}")
            return
        try:
            is_socket = stat.S_ISSOCK(os.stat(socket).st_mode)
        except OSError as error:
            raise NotFound(f"ssh agent {mount.id}: {socket}: {error.strerror}") from error
        if not is_socket:
            raise Unsupported(f"ssh agent {mount.id}: {socket} is not an agent's socket; add keys to an agent first")
        if (mount.uid, mount.gid, mount.mode) != (None, None, None):
            mode = 0o600 if mount.mode is None else mount.mode
            relay = self._services.runner.agent_socket(socket, mode, mount.uid or 0, mount.gid or 0)
            socket = stack.enter_context(relay)
        given.append(MountPoint(os.path.realpath(socket), mount.target))
        env.append(f"SSH_AUTH_SOCK={mount.target}")

    def _caches(self, planned: Sequence[_Planned], stack: ExitStack) -> list[MountPoint]:
        """Hold the caches, in one order for all commands, so that two never wait for each other."""
        root = self._services.files.root
        caches = CacheMounts(root.lamella_dir)
        held: dict[str, Path] = {}
        given = []
        for key, item in sorted(((self._cache_key(item), item) for item in planned), key=lambda pair: pair[0]):
            mount = item.mount
            if key not in held:
                held[key] = stack.enter_context(
                    caches.hold(
                        key,
                        mount.id,
                        mount.sharing,
                        fill=lambda directory, item=item: self._fill_cache(item, directory),  # type: ignore[misc]
                        before_waiting=root.flush,
                    )
                )
            given.append(MountPoint(str(held[key]), mount.target, ("ro",) if mount.writable is False else ()))
        return given

    def _cache_key(self, item: _Planned) -> str:
        """Tell one cache from another: its id, and what it begins with."""
        mount, content = item.mount, item.content
        namespace = self._services.options.build_args.get(_NAMESPACE, "")
        begins = None if content is None else [_identity(content.image), os.fsdecode(content.path)]
        return sha256(encode([namespace, mount.id, begins, mount.mode, mount.uid, mount.gid])).hexdigest()

    def _fill_cache(self, item: _Planned, directory: Path) -> None:
        mount, content = item.mount, item.content
        mode, uid, gid = 0o755, 0, 0
        if content is not None and content.image is not None:
            if not stat.S_ISDIR(content.stat.st_mode):
                raise InvalidArgument(f"cache mount {mount.id}: {mount.source} is not a directory")
            mode, uid, gid = stat.S_IMODE(content.stat.st_mode), content.stat.st_uid, content.stat.st_gid
            with self._services.files.read_only(content.image) as path, Root(path) as root, Root(directory) as target:
                tree = SourceTree(root, is_context=False)
                source = Source(b"", content.digest, tree, content.path, content.stat)
                copy_source(source, target, b"/", Manner(None, None, self._now()))
        os.chown(directory, uid if mount.uid is None else mount.uid, gid if mount.gid is None else mount.gid)
        os.chmod(directory, mode if mount.mode is None else mount.mode)

    def _now(self) -> int:
        timestamp = self._services.options.timestamp
        return time.time_ns() if timestamp is None else timestamp * 10**9


def _find(tree: SourceTree, image: Snapshot | None, mount: ast.Mount) -> _Content:
    asked = os.fsencode(mount.source)
    try:
        path, status = tree.resolve(asked)
    except OSError as error:
        where = "in the build context or excluded by .dockerignore" if image is None else f"in {mount.stage}"
        raise NotFound(f"--mount=type={mount.kind}: {mount.source}: not found {where}") from error
    if not stat.S_ISDIR(status.st_mode) and not stat.S_ISREG(status.st_mode):
        raise InvalidArgument(f"--mount=type={mount.kind}: {mount.source} is neither a file nor a directory")
    if image is not None and (not path or mount.kind == "cache"):
        return _Content(image, path, status, _identity(image))  # a whole image is told by its layers
    return _Content(image, path, status, source_sum(tree, path, status, posixpath.basename(path)))


def _identity(image: Snapshot | None) -> str:
    return "" if image is None or image.chain is None else str(image.chain)


def _make_mount_point(root: Root, target: bytes, *, is_file: bool) -> None:
    try:
        if not is_file:
            root.make_directories(target)
            return
        root.make_directories(posixpath.dirname(target))
        parent, name = root.open_parent(target)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(name, flags, 0o644, dir_fd=parent))
        except FileExistsError:
            pass  # it is mounted over
        finally:
            os.close(parent)
    except NotADirectoryError as error:
        raise InvalidArgument(f"nothing can be mounted at {os.fsdecode(target)}: a file is in the way") from error


def _require_text(path: str) -> None:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise Unsupported(f"--mount: {path!r}: the runtime takes no name that is not UTF-8") from None
