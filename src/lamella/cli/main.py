"""The command line: find the command, parse its flags, run it, turn failures into a line and an exit code.

Nothing is imported for a command but its own module, and by that only what it does.
"""

from __future__ import annotations

import os
import sys

from lamella.cli.flags import HelpWanted, UsageError, Values, parse_flags
from lamella.cli.table import NOUNS, TABLE, Entry, find_entry
from lamella.cli.usage import GLOBAL_FLAGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from lamella.cli.command import Command


def run(argv: list[str]) -> int:
    """Run ``lamella`` with the arguments *argv* and return the exit code; nothing is raised but bugs."""
    try:
        code = _global(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read us has gone.  Keep the interpreter's own last flush from complaining about it.
        from lamella.cli.exits import BROKEN_PIPE

        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)
        return BROKEN_PIPE
    except KeyboardInterrupt:
        from lamella.cli.exits import INTERRUPTED

        return INTERRUPTED
    return code


def _global(argv: list[str]) -> int:
    try:
        options, words = parse_flags(GLOBAL_FLAGS, argv, interspersed=False)
        if options.on("version"):
            from lamella._version import __version__

            sys.stdout.write(f"lamella version {__version__}\n")
            return 0
        return _dispatch(options, words)
    except HelpWanted:
        return _help([])
    except UsageError as error:
        return _misused("", error, "lamella --help")


def _help(words: list[str]) -> int:
    from lamella.cli.usage import noun_help, overview, screen_width

    if not words:
        sys.stdout.write(overview(screen_width()))
        return 0
    entry, rest = find_entry(words)
    if entry is not None and not rest:
        return _command_help(entry, load_command(entry))
    if words[0] in NOUNS and len(words) == 1:
        sys.stdout.write(noun_help(words[0]))
        return 0
    raise UsageError(f"unknown help topic: {' '.join(words)}", code=1)


def _dispatch(options: Values, words: list[str]) -> int:
    if not words or words[0] == "help":
        return _help(words[1:])
    entry, arguments = find_entry(words)
    if entry is not None:
        return _run(entry, options, arguments)
    noun = words[0]
    if noun in NOUNS:
        if len(words) == 1 or words[1] in {"--help", "-h", "help"}:
            return _help([noun, *words[2:]] if words[1:2] == ["help"] else [noun])
        if words[1].startswith("-"):
            return _misused("", UsageError(f"unknown flag: {words[1]}"), f"lamella {noun} --help")
        name, where = f"{noun} {words[1]}", f"lamella {noun} --help"
    else:
        name, where = noun, "lamella --help"
    return _misused("lamella: ", UsageError(f"unknown command: lamella {name}{_nearest(name)}", code=1), where)


def _nearest(name: str) -> str:
    from difflib import get_close_matches  # loaded only to help with a typing error

    noun, space, verb = name.rpartition(" ")
    prefix = noun + space
    words = [each.removeprefix(prefix) for each in TABLE if each.startswith(prefix) and not TABLE[each].hidden]
    close = get_close_matches(verb, words, 1, 0.7)
    return f" (did you mean '{prefix}{close[0]}'?)" if close else ""


def load_command(entry: Entry) -> Command:
    """Import the one module that holds the command."""
    from importlib import import_module

    from lamella.cli.command import Command

    command: object = getattr(import_module(f"lamella.cli.commands.{entry.module}"), entry.attribute)
    assert isinstance(command, Command), entry.name  # noqa: S101 - the table's own mistake
    return command


def _command_help(entry: Entry, command: Command) -> int:
    from lamella.cli.usage import command_help, screen_width

    sys.stdout.write(command_help(entry, command.usage, command.flags, command.notes, screen_width()))
    return 0


def _misused(prefix: str, error: UsageError, where: str) -> int:
    from lamella.cli.context import print_error

    print_error(f"{prefix}{error}\nSee '{where}'.")
    return error.code


def _run(entry: Entry, options: Values, arguments: list[str]) -> int:
    from lamella.cli.command import check_arguments

    command = load_command(entry)
    try:
        values, rest = parse_flags(command.flags, arguments, interspersed=command.interspersed)
    except HelpWanted:
        return _command_help(entry, command)
    except UsageError as error:
        return _misused("", error, f"lamella {entry.name} --help")
    try:
        check_arguments(entry.name, command, rest)
    except UsageError as error:
        return _misused("lamella: ", error, f"lamella {entry.name} --help")
    return _perform(entry, command, options, values, rest)


def _perform(entry: Entry, command: Command, options: Values, values: Values, rest: list[str]) -> int:
    from lamella.cli.context import Context, print_error
    from lamella.cli.exits import TERMINATED, exit_code
    from lamella.errors import LamellaError

    with _terminable():
        context = Context(options, dict(os.environ))
        try:
            try:
                return command.run(context, values, rest)
            finally:
                context.close()
        except BrokenPipeError:
            raise
        except _Terminated:
            return TERMINATED
        except UsageError as error:
            # Code 1 is for what is no misspelling: help would not help.
            hint = "" if error.code == 1 else f"\nSee 'lamella {entry.name} --help'."
            print_error(f"lamella: {describe(error)}{hint}")
            return error.code
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the outermost frame: one line, not a traceback
            if options.on("debug"):
                import traceback

                traceback.print_exc()
            if isinstance(error, (LamellaError, OSError)):
                print_error(f"lamella: {describe(error)}")
            elif isinstance(error, Exception):
                name = type(error).__name__
                print_error(f"lamella: internal error: {name}: {describe(error)} (run lamella -D … for the traceback)")
            return exit_code(error, command.failure)


def describe(error: BaseException) -> str:
    """Put *error* in one line: its message, what it was about, and the notes added on the way up."""
    if isinstance(error, OSError) and error.strerror:
        import errno

        text = error.strerror[:1].lower() + error.strerror[1:]
        names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes))]
        if names:
            text = f"{' -> '.join(names)}: {text}"
        if error.errno == errno.ENOSPC:
            text += "; free some space, for instance with 'lamella image prune'"
    else:
        text = str(error) or type(error).__name__
    notes: list[str] = getattr(error, "__notes__", [])
    return " ".join("; ".join([text, *notes]).split("\n"))


class _Terminated(BaseException):
    """SIGTERM arrived: unwind, so that mounts and locks are given back, and go."""


class _terminable:  # noqa: N801 - reads as the statement it is
    """Turn SIGTERM into an exception for the length of the block."""

    def __enter__(self) -> None:
        import signal

        def stop(_number: int, _frame: object) -> None:
            raise _Terminated

        self._before = signal.signal(signal.SIGTERM, stop)

    def __exit__(self, *_: object) -> None:
        import signal

        signal.signal(signal.SIGTERM, self._before)
