"""Help texts in Docker's shape: usage line, description, aliases, options, all fitted to the terminal's width."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from lamella.cli.flags import Flag
from lamella.cli.table import COMMON, NOUNS, TABLE, Entry

GLOBAL_FLAGS = (
    Flag("debug", "Show the whole traceback of an error", short="D"),
    Flag("root", "Root directory of the store", kind="string", default="/var/lib/lamella"),
    Flag("runtime", "OCI runtime that starts containers (crun or runc)", kind="string"),
    Flag("state", "Directory of what lives no longer than the machine is up", kind="string", hidden=True),
    Flag("storage-driver", "Storage driver of a new store (overlay2 or vfs)", kind="string"),
    Flag("version", "Print version information and quit", short="v"),
)


def screen_width(default: int = 80) -> int:
    """Return the terminal's width, or *default* where standard output is none."""
    try:
        return os.get_terminal_size(1).columns or default
    except OSError:
        return default


def wrap(text: str, width: int) -> list[str]:
    """Break *text* at spaces so that no line is longer than *width* unless one word is; newlines are kept."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            if line and len(line) + 1 + len(word) > width:
                lines.append(line)
                line = word
            else:
                line = f"{line} {word}" if line else word
        lines.append(line)
    return lines


def flag_lines(flags: Iterable[Flag], width: int) -> list[str]:
    """Render the options block, sorted by name."""
    shown = sorted((flag for flag in flags if not flag.hidden), key=lambda flag: flag.name)
    heads = [
        f"  {f'-{flag.short}, ' if flag.short else '    '}--{flag.name}{'' if flag.kind == 'bool' else ' ' + flag.kind}"
        for flag in shown
    ]
    column = max((len(head) for head in heads), default=0) + 3
    lines = []
    for head, flag in zip(heads, shown, strict=True):
        text = flag.help + _default(flag)
        first, *more = wrap(text, max(width - column, 24))
        lines.append(f"{head:<{column}}{first}")
        lines.extend(" " * column + line for line in more)
    return lines


def _default(flag: Flag) -> str:
    if flag.default in {"", "false"} or flag.many:
        return ""
    return f" (default {flag.default})" if flag.kind in {"bool", "int"} else f' (default "{flag.default}")'


def usage_line(name: str, usage: str) -> str:
    """Render the ``Usage:`` line of a command."""
    return f"Usage:  lamella {name} {usage}".rstrip()


def command_help(entry: Entry, usage: str, flags: Sequence[Flag], notes: str, width: int) -> str:
    """Render ``lamella COMMAND --help``."""
    lines = [usage_line(entry.name, usage), "", *wrap(entry.help, width)]
    if notes:
        lines += ["", *wrap(notes, width)]
    if entry.aliases:
        lines += ["", "Aliases:", *wrap("  " + ", ".join(f"lamella {alias}" for alias in entry.aliases), width)]
    if any(not flag.hidden for flag in flags):
        lines += ["", "Options:", *flag_lines(flags, width)]
    return "\n".join(lines) + "\n"


def noun_help(noun: str) -> str:
    """Render ``lamella image --help`` and its like."""
    rows = [
        (entry.name.removeprefix(f"{noun} "), entry.help)
        for name, entry in TABLE.items()
        if name.startswith(f"{noun} ") and not entry.hidden
    ]
    lines = [f"Usage:  lamella {noun} COMMAND", "", NOUNS[noun], "", "Commands:", *_rows(rows)]
    return "\n".join([*lines, "", f"Run 'lamella {noun} COMMAND --help' for more information on a command."]) + "\n"


def overview(width: int) -> str:
    """Render ``lamella --help``."""
    top = {name: entry for name, entry in TABLE.items() if " " not in name}
    lines = [
        "Usage:  lamella [OPTIONS] COMMAND",
        "",
        "A container image store and runner without a daemon, on Docker's layout",
    ]
    lines += ["", "Common Commands:", *_rows([(name, top[name].help) for name in COMMON])]
    lines += ["", "Management Commands:", *_rows(sorted(NOUNS.items()))]
    lines += ["", "Commands:", *_rows(sorted((name, top[name].help) for name in top if name not in COMMON))]
    lines += ["", "Global Options:", *flag_lines(GLOBAL_FLAGS, width)]
    return "\n".join([*lines, "", "Run 'lamella COMMAND --help' for more information on a command."]) + "\n"


def _rows(rows: Sequence[tuple[str, str]]) -> list[str]:
    column = max(12, *(len(name) + 2 for name, _ in rows))
    return [f"  {name:<{column}}{text}" for name, text in rows]
