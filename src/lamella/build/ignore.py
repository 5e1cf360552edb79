"""`.dockerignore`: which names of the context a build does not see, by Docker's rules.

The last line that matches a path or a directory above it decides; a line with ``!`` makes an exception.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

from lamella.build.patterns import Pattern
from lamella.errors import InvalidArgument

MAX_IGNORE_FILE = 64 << 10


class IgnoreRules:
    """The lines of one file, compiled; answers are remembered for directories."""

    def __init__(self, lines: list[str]) -> None:
        self._rules: list[tuple[Pattern, bool]] = []
        for line in lines:
            exception = line.startswith("!")
            text = line.removeprefix("!")
            if exception and not text:
                raise InvalidArgument('.dockerignore: illegal exclusion pattern: "!"')
            self._rules.append((Pattern(text, deep=True), exception))
        self._exceptions = [pattern.text for pattern, exception in self._rules if exception]
        # For a directory: whether each rule matches it or one above it.
        self._matched: dict[str, list[bool]] = {"": [False] * len(self._rules)}

    def __bool__(self) -> bool:
        return bool(self._rules)

    @property
    def has_exceptions(self) -> bool:
        """Whether a line brings back what others leave out."""
        return bool(self._exceptions)

    @property
    def ignores_everything(self) -> bool:
        """Whether a line leaves out all there is."""
        return any(not exception and pattern.text in ("*", "**", "**/*") for pattern, exception in self._rules)

    def ignores(self, path: str) -> bool:
        """Tell whether `path`, relative and clean, is left out."""
        if path.startswith("/"):
            raise InvalidArgument(f"{path!r} is not relative")
        above = self._above(posixpath.dirname(path))
        ignored = False
        for (pattern, exception), matched in zip(self._rules, above, strict=True):
            if exception == ignored and (matched or pattern.matches(path)):
                ignored = not exception
        return ignored

    def may_except_below(self, directory: str) -> bool:
        """Tell whether an exception may bring back something below the ignored `directory`."""
        prefix = directory + "/"
        for text in self._exceptions:
            if "**" not in text and text.count("/") < prefix.count("/"):
                continue  # names only what lies higher
            fixed = _fixed_start(text)
            if fixed.startswith(prefix) or (fixed != text and prefix.startswith(fixed)):
                return True
        return False

    def _above(self, directory: str) -> list[bool]:
        """Give, for each rule, whether it matches `directory` or one above it."""
        missing: list[str] = []
        while (known := self._matched.get(directory)) is None:
            missing.append(directory)
            directory = posixpath.dirname(directory)
        for path in reversed(missing):
            known = [
                matched or pattern.matches(path)
                for (pattern, _exception), matched in zip(self._rules, known, strict=True)
            ]
            self._matched[path] = known
        return known


NOTHING_IGNORED = IgnoreRules([])


def parse_ignore(raw: bytes) -> IgnoreRules:
    """Read a `.dockerignore`; raises InvalidArgument for a pattern whose syntax is wrong."""
    if len(raw) > MAX_IGNORE_FILE:
        raise InvalidArgument(f".dockerignore is larger than {MAX_IGNORE_FILE} bytes")
    lines: list[str] = []
    for raw_line in raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        line = raw_line.decode(errors="surrogateescape")
        if line.startswith("#"):
            continue
        line = line.strip()
        if not line:
            continue
        exception = line.startswith("!")
        if exception:
            line = line[1:].strip()
        if line:
            rooted = line.startswith("/")
            line = posixpath.normpath(line.lstrip("/") or "/") if rooted else posixpath.normpath(line)
        if line or exception:
            lines.append(("!" if exception else "") + line)
    return IgnoreRules(lines)


def parse_excluded(patterns: Sequence[str]) -> IgnoreRules:
    """Read the patterns of ``--exclude``, which are relative to the source."""
    lines: list[str] = []
    for pattern in patterns:
        text = pattern.strip()
        exception = text.startswith("!")
        text = text.removeprefix("!").strip().lstrip("/")
        if text or exception:
            lines.append(("!" if exception else "") + (posixpath.normpath(text) if text else ""))
    return IgnoreRules(lines)


def _fixed_start(text: str) -> str:
    """Give what stands before the first character with a meaning."""
    for at, character in enumerate(text):
        if character in "*?[\\":
            return text[:at]
    return text
