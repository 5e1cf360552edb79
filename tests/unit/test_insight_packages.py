"""Files find their package in the image's own databases, whatever these hold."""

from __future__ import annotations

import sqlite3
import struct
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from lamella.insight.packages import Package, Packages
from lamella.insight.rpmdb import RpmDatabase
from lamella.insight.stack import Stack

APK = b"""\
C:Q1abc=
P:musl
V:1.2.5-r0
F:lib
R:ld-musl-x86_64.so.1
Z:Q1x=

P:busybox
V:1.36.1-r29
F:bin
R:busybox
F:etc/network
R:if-up
F:
R:top
"""


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def owner(root: Path, path: bytes) -> Package | None:
    with Stack([root]) as stack:
        return Packages(stack).find(path)


def test_dpkg_lists_and_status_are_read(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "var/lib/dpkg/info/coreutils.list": b"/.\n/bin\n/bin/ls\n/usr\n/usr/bin\n/usr/bin/cut\n",
            "var/lib/dpkg/info/libc6:amd64.list": b"/.\n/lib/libc.so.6\n",
            "var/lib/dpkg/status": b"Package: coreutils\nStatus: install ok installed\nVersion: 9.1-1\n\n"
            b"Package: libc6\nArchitecture: amd64\nVersion: 2.36-9\nDescription: x\n Version: 1\n",
        },
    )
    assert owner(root, b"usr/bin/cut") == Package("dpkg", "coreutils", "9.1-1")
    assert owner(root, b"usr/bin/ls") == Package("dpkg", "coreutils", "9.1-1")  # known by the name before the merge
    assert owner(root, b"usr/lib/libc.so.6") == Package("dpkg", "libc6:amd64", "2.36-9")
    assert owner(root, b"usr/bin/cu") is None


def test_a_diverted_file_is_that_of_the_package_which_it_was_made_way_for(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "var/lib/dpkg/info/bash.list": b"/bin/bash\n/bin/sh\n",
            "var/lib/dpkg/info/dash.list": b"/bin/dash\n/bin/sh\n",
            "var/lib/dpkg/info/tool.list": b"/usr/bin/tool\n",
            "var/lib/dpkg/diversions": b"/bin/sh\n/bin/sh.distrib\ndash\n/usr/bin/tool\n/usr/bin/tool.real\n:\ncut",
            "var/lib/dpkg/status": b"Package: bash\nVersion: 5\n\nPackage: dash\nVersion: 0.5\n\n"
            b"Package: tool\nVersion: 3\n",
        },
    )
    assert owner(root, b"usr/bin/sh") == Package("dpkg", "dash", "0.5")
    assert owner(root, b"usr/bin/sh.distrib") == Package("dpkg", "bash", "5")
    assert owner(root, b"usr/bin/tool.real") == Package("dpkg", "tool", "3")
    assert owner(root, b"usr/bin/tool") is None  # whatever the administrator put in its place


def test_images_without_dpkg_keep_a_file_a_package(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "var/lib/dpkg/status.d/tzdata": b"Package: tzdata\nVersion: 2024a-0\n",
            "var/lib/dpkg/status.d/tzdata.md5sums": b"0123456789abcdef0123456789abcdef  usr/share/zoneinfo/UTC\n",
        },
    )
    assert owner(root, b"usr/share/zoneinfo/UTC") == Package("dpkg", "tzdata", "2024a-0")


def test_apk_is_read(tmp_path: Path) -> None:
    root = write(tmp_path, {"lib/apk/db/installed": APK})
    assert owner(root, b"bin/busybox") == Package("apk", "busybox", "1.36.1-r29")
    assert owner(root, b"lib/ld-musl-x86_64.so.1") == Package("apk", "musl", "1.2.5-r0")
    assert owner(root, b"top") == Package("apk", "busybox", "1.36.1-r29")
    assert owner(root, b"bin/other") is None


def test_python_records_are_read_for_modules_and_scripts(tmp_path: Path) -> None:
    record = b'demo/__init__.py,sha256=x,3\n"demo/a,b.txt",sha256=x,1\n../../../bin/demo,sha256=x,9\n'
    place = "usr/local/lib/python3.11/site-packages"
    root = write(tmp_path, {f"{place}/Demo-1.2.dist-info/RECORD": record})
    found = Package("python", "Demo", "1.2")
    assert owner(root, f"{place}/demo/__init__.py".encode()) == found
    assert owner(root, f"{place}/demo/a,b.txt".encode()) == found
    assert owner(root, b"usr/local/bin/demo") == found
    assert owner(root, f"{place}/demo/__init__".encode()) is None
    assert owner(root, b"usr/local/bin/dem") is None


def header(**texts: object) -> bytes:
    """Write a package's header by the description of rpm's format."""
    entries: list[bytes] = []
    data = b""
    for tag, kind, values in (
        (1000, 6, [str(texts["name"])]),
        (1001, 6, [str(texts["version"])]),
        (1002, 6, [str(texts["release"])]),
        (1003, 4, texts.get("epoch", [])),
        (1116, 4, texts["indexes"]),
        (1117, 8, texts["names"]),
        (1118, 8, texts["directories"]),
    ):
        assert isinstance(values, list)
        if not values:
            continue
        if kind == 4:
            data += b"\0" * (-len(data) % 4)
        entries.append(struct.pack(">IIII", tag, kind, len(data), len(values)))
        data += b"".join(struct.pack(">I", item) if kind == 4 else str(item).encode() + b"\0" for item in values)
    return struct.pack(">II", len(entries), len(data)) + b"".join(entries) + data


def rpm_database(place: Path, *blobs: tuple[bytes, list[str]]) -> bytes:
    connection = sqlite3.connect(place)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB NOT NULL)")
    connection.execute("CREATE TABLE Basenames (key TEXT NOT NULL, hnum INTEGER NOT NULL, idx INTEGER NOT NULL)")
    for number, (blob, names) in enumerate(blobs, 1):
        connection.execute("INSERT INTO Packages VALUES (?, ?)", (number, blob))
        connection.executemany(
            "INSERT INTO Basenames VALUES (?, ?, ?)", [(name, number, i) for i, name in enumerate(names)]
        )
    connection.commit()
    connection.close()
    return place.read_bytes()


def test_rpms_sqlite_database_is_read_and_older_kinds_are_told(tmp_path: Path) -> None:
    names = ["bash", "sh"]
    blob = header(
        name="bash",
        version="5.2",
        release="1.fc40",
        epoch=[2],
        indexes=[0, 1],
        names=names,
        directories=["/usr/bin/", "/bin/"],
    )
    other = header(name="fake", version="1", release="1", indexes=[0], names=["bash"], directories=["/opt/"])
    raw = rpm_database(tmp_path / "db", (other, ["bash"]), (blob, names))
    root = write(tmp_path / "root", {"usr/lib/sysimage/rpm/rpmdb.sqlite": raw})
    assert owner(root, b"usr/bin/bash") == Package("rpm", "bash", "2:5.2-1.fc40")
    assert owner(root, b"opt/bash") == Package("rpm", "fake", "1-1")
    assert owner(root, b"etc/bash") is None
    old = write(tmp_path / "old", {"var/lib/rpm/Packages": b"\0" * 100})
    with Stack([old]) as stack:
        packages = Packages(stack)
        assert packages.find(b"usr/bin/bash") is None
        assert ["not read here" in problem for problem in packages.problems] == [True]


@given(st.binary(max_size=300), st.binary(max_size=200))
def test_damaged_databases_have_no_packages_and_raise_nothing(header_bytes: bytes, tail: bytes) -> None:
    assert RpmDatabase(b"SQLite format 3\0" + tail).find(b"usr/bin/x") is None
    connection = RpmDatabase(b"")._connection
    connection.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB)")
    connection.execute("CREATE TABLE Basenames (key TEXT, hnum INTEGER, idx INTEGER)")
    connection.execute("INSERT INTO Packages VALUES (1, ?)", (header_bytes,))
    connection.execute("INSERT INTO Basenames VALUES ('x', 1, 0)")
    database = RpmDatabase(b"")
    database._connection, database._sound = connection, True
    assert database.find(b"usr/bin/x") is None
