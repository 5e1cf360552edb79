"""What ADD takes from the network: files by URL, and git repositories."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from lamella.build.context import SourceTree
from lamella.build.sources import Source
from lamella.build.sums import source_sum
from lamella.errors import InvalidArgument
from lamella.fs.rooted import Root


class RemoteSource(NamedTuple):
    """A source of ADD that lies in the network, and what its flags say of it."""

    url: str
    checksum: str = ""
    keep_git_dir: bool = False
    unpack: bool = False

    @contextmanager
    def opened(self, proxies: Mapping[str, str]) -> Generator[Source]:
        """Bring it in and sum it; the files live as long as the block.  Raises what `downloaded` and `checked_out` do.

        Nothing of the server's is in the sum but names, modes and content: the same file with another date is cached.
        """
        from lamella.build.download import downloaded
        from lamella.build.gitsource import checked_out, parse_git

        git = parse_git(self.url)
        if git is not None:
            if self.checksum and git.checksum and self.checksum != git.checksum:
                raise InvalidArgument(f"checksum mismatch {self.checksum} != {git.checksum}")
            if self.checksum and not self.checksum.isalnum():
                raise InvalidArgument(f"invalid checksum {self.checksum[:100]!r}: a repository's is a commit")
            keep = self.keep_git_dir or bool(git.keep_git_dir)
            wanted = git._replace(checksum=self.checksum or git.checksum, keep_git_dir=keep)
            with checked_out(wanted, proxies=proxies) as checkout, Root(checkout.directory) as root:
                tree = SourceTree(root)
                status = os.fstat(root.fd)
                digest = source_sum(tree, b"", status, b"")
                if keep and not git.subdirectory:
                    digest = f"git:{checkout.commit}"  # what else is in .git differs from clone to clone
                yield Source(b"", digest, tree, b"", status, unpack=False)
            return
        with downloaded(self.url, checksum=self.checksum, proxies=proxies) as file, Root(file.directory) as root:
            tree = SourceTree(root)
            path = os.fsencode(file.name)
            status = root.lstat(path)
            # As the classic builder writes it, which has no word before the sum of a download.
            digest = source_sum(tree, path, status, path).removeprefix("file:")
            yield Source(path, digest, tree, path, status, unpack=self.unpack)
