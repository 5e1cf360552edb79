"""The table of commands: name, module, attribute, one line of help.

``lamella --help`` prints this table and imports nothing; running a command imports its one module.
"""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """Where a command lives and how the list of commands announces it."""

    name: str
    module: str
    attribute: str
    help: str
    aliases: tuple[str, ...] = ()
    """Full names of the same command, this one's included, as its help lists them."""
    hidden: bool = False


_IMAGES: tuple[tuple[str, str, str, str, tuple[str, ...]], ...] = (
    # name below `image`, module, attribute, help, other names below `image`; the top-level name is in _TOP
    ("build", "build", "BUILD", "Build an image from a Dockerfile", ()),
    ("diff", "imagediff", "IMAGE_DIFF", "Compare two images, in files and in settings", ()),
    ("history", "history", "HISTORY", "Show the history of an image", ()),
    ("import", "importing", "IMPORT", "Import the contents from a tarball to create a filesystem image", ()),
    ("inspect", "inspect", "IMAGE_INSPECT", "Display detailed information on one or more images", ()),
    ("load", "load", "LOAD", "Load an image from a tar archive or STDIN", ()),
    ("ls", "images", "IMAGES", "List images", ("list",)),
    ("prune", "prune", "IMAGE_PRUNE", "Remove unused images", ()),
    ("pull", "pull", "PULL", "Download an image from a registry", ()),
    ("push", "push", "PUSH", "Upload an image to a registry", ()),
    ("rm", "rmi", "RMI", "Remove one or more images", ("remove",)),
    ("save", "save", "SAVE", "Save one or more images to a tar archive (streamed to STDOUT by default)", ()),
    ("tag", "tag", "TAG", "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE", ()),
)

_CONTAINERS: tuple[tuple[str, str, str, str, tuple[str, ...]], ...] = (
    ("attach", "attach", "ATTACH", "Attach local standard input, output, and error streams to a running container", ()),
    ("commit", "commit", "COMMIT", "Create a new image from a container's changes", ()),
    ("cp", "cp", "CP", "Copy files/folders between a container and the local filesystem", ()),
    ("create", "create", "CREATE", "Create a new container", ()),
    ("diff", "diff", "DIFF", "Inspect changes to files or directories on a container's filesystem", ()),
    ("exec", "exec", "EXEC", "Execute a command in a running container", ()),
    ("export", "export", "EXPORT", "Export a container's filesystem as a tar archive", ()),
    ("inspect", "inspect", "CONTAINER_INSPECT", "Display detailed information on one or more containers", ()),
    ("kill", "kill", "KILL", "Kill one or more running containers", ()),
    ("logs", "logs", "LOGS", "Fetch the logs of a container", ()),
    ("ls", "ps", "PS", "List containers", ("list", "ps")),
    ("pause", "pause", "PAUSE", "Pause all processes within one or more containers", ()),
    ("prune", "prune", "CONTAINER_PRUNE", "Remove all stopped containers", ()),
    ("rename", "rename", "RENAME", "Rename a container", ()),
    ("restart", "restart", "RESTART", "Restart one or more containers", ()),
    ("rm", "rm", "RM", "Remove one or more containers", ("remove",)),
    ("run", "run", "RUN", "Create and run a new container from an image", ()),
    ("start", "start", "START", "Start one or more stopped containers", ()),
    ("stop", "stop", "STOP", "Stop one or more running containers", ()),
    ("top", "top", "TOP", "Display the running processes of a container", ()),
    ("unpause", "pause", "UNPAUSE", "Unpause all processes within one or more containers", ()),
    ("wait", "wait", "WAIT", "Block until one or more containers stop, then print their exit codes", ()),
)

_TOP_OF = {"image ls": "images", "image rm": "rmi", "container ls": "ps"}
_BUILD = ("image build", "build", "builder build")
_NOT_TOP = frozenset({"image diff", "image inspect", "image prune", "container inspect", "container prune"})

COMMON = (
    "run",
    "exec",
    "ps",
    "build",
    "pull",
    "push",
    "images",
    "explain",
    "why",
    "login",
    "logout",
    "version",
    "info",
)
"""The commands that ``lamella --help`` lists first."""


def _entries() -> dict[str, Entry]:
    table: dict[str, Entry] = {}
    for noun, rows in (("image", _IMAGES), ("container", _CONTAINERS)):
        for name, module, attribute, text, others in rows:
            full = f"{noun} {name}"
            below = [full, *(f"{noun} {other}" for other in others)]
            top = [] if full in _NOT_TOP else [_TOP_OF.get(full, name)]
            aliases = tuple(below + top) if len(below) + len(top) > 1 else ()
            if full == _BUILD[0]:
                aliases = _BUILD
            for each in below + top:
                table[each] = Entry(each, module, attribute, text, aliases, hidden=each in below[1:])
    for entry in (
        Entry("builder build", "build", "BUILD", "Build an image from a Dockerfile", _BUILD),
        Entry("builder prune", "prune", "BUILDER_PRUNE", "Remove build cache"),
        Entry("inspect", "inspect", "INSPECT", "Return low-level information on images and containers"),
        Entry("copy", "copy", "COPY", "Copy an image between registries, archives and directories, packed as it is"),
        Entry("adopt", "adopt", "ADOPT", "Bring images and containers over from another engine's store"),
        Entry("explain", "explain", "EXPLAIN", "Draw an image or container as the stack of layers it is"),
        Entry("why", "why", "WHY", "Say to whom a path, an inode, a mount or a process belongs"),
        Entry("blame", "blame", "BLAME", "Say which layer, step and package files are from, and what they hide"),
        Entry("df", "df", "DF", "Account for every block that the store takes on the disk"),
        Entry("system df", "df", "SYSTEM_DF", "Show disk usage, as Docker sums it up"),
        Entry("system prune", "prune", "SYSTEM_PRUNE", "Remove unused data"),
        Entry("gc plan", "gc", "GC_PLAN", "Show which images a policy would remove, and what each frees"),
        Entry("gc apply", "gc", "GC_APPLY", "Remove the images that a policy lets go"),
        Entry("pin", "gc", "PIN", "Keep garbage collection off images, or list those"),
        Entry("unpin", "gc", "UNPIN", "Give images back to garbage collection"),
        Entry("login", "login", "LOGIN", "Authenticate to a registry"),
        Entry("logout", "login", "LOGOUT", "Log out from a registry"),
        Entry("fsck", "fsck", "FSCK", "Check the store, and mend it with --heal"),
        Entry("reclaim", "reclaim", "RECLAIM", "Take away what nothing in the store needs, so that it can be had back"),
        Entry("ui", "ui", "UI", "Show the store as a page in the browser"),
        Entry("info", "info", "INFO", "Display what the store and this machine offer"),
        Entry("version", "version", "VERSION", "Show the version of lamella and of the tools it drives"),
        Entry("completion", "completion", "COMPLETION", "Generate the completion script for a shell"),
        Entry("container cleanup", "cleanup", "CLEANUP", "Record a container's exit and unmount it", hidden=True),
    ):
        table[entry.name] = entry
    return table


TABLE: dict[str, Entry] = _entries()

NOUNS: dict[str, str] = {
    "builder": "Manage builds",
    "container": "Manage containers",
    "gc": "Remove images by a policy",
    "image": "Manage images",
    "system": "Manage the store",
}


def find_entry(words: list[str]) -> tuple[Entry | None, list[str]]:
    """Return the command that *words* begin with, and the words after its name."""
    if not words:
        return None, []
    if words[0] in NOUNS:
        if len(words) > 1 and (entry := TABLE.get(f"{words[0]} {words[1]}")):
            return entry, words[2:]
        return None, words
    return TABLE.get(words[0]), words[1:]
