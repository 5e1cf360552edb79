"""Random identifiers and generated container names.

An identifier read from disk is checked here (``is_cache_id``, ``is_link_id``) before it is ever made part of a path.
"""

from __future__ import annotations

import os
import re
from collections.abc import Container
from typing import NewType

from lamella.errors import InvalidArgument

CacheID = NewType("CacheID", str)
"""Random name of a driver directory; means nothing outside the driver."""
ContainerID = NewType("ContainerID", str)
"""64 hexadecimal digits."""
LinkID = NewType("LinkID", str)
"""26 characters of ``A-Z2-7``, short enough for 128 of them in one page of mount data."""

_CACHE_ID = re.compile(r"[a-z0-9]{25}|[0-9a-f]{64}(?:-init)?", re.ASCII)
_LINK_ID = re.compile(r"[A-Z0-9]{26}", re.ASCII)
_CONTAINER_NAME = re.compile(r"/?([a-zA-Z0-9][a-zA-Z0-9_.-]+)", re.ASCII)
_HEX64 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


def _random_id() -> str:
    while True:
        text = os.urandom(32).hex()
        # As Docker: a short form of digits alone would be taken for a number by some who read it.
        if not text[:12].isdigit():
            return text


def new_cache_id() -> CacheID:
    """Return 64 random hexadecimal digits for a driver directory."""
    return CacheID(_random_id())


def new_container_id() -> ContainerID:
    """Return 64 random hexadecimal digits for a container."""
    return ContainerID(_random_id())


def new_link_id() -> LinkID:
    """Return a random name for a symlink under ``overlay2/l``."""
    return link_id_of(os.urandom(17))


def link_id_of(entropy: bytes) -> LinkID:
    """Spell 17 bytes as the first 26 characters of their base32 form."""
    number = int.from_bytes(entropy, "big") >> 6  # 26 characters hold 130 of the 136 bits
    return LinkID("".join(_BASE32[number >> shift & 31] for shift in range(125, -1, -5)))


def init_id(cache_id: CacheID) -> CacheID:
    """Name the init layer that belongs to the read-write layer *cache_id*."""
    return CacheID(f"{cache_id}-init")


def is_cache_id(text: str) -> bool:
    """Tell whether *text* may be the name of a driver directory (BuildKit's have 25 characters)."""
    return _CACHE_ID.fullmatch(text) is not None


def is_link_id(text: str) -> bool:
    """Tell whether *text* may be the name of a symlink under ``overlay2/l``."""
    return _LINK_ID.fullmatch(text) is not None


def is_container_id(text: str) -> bool:
    """Tell whether *text* is a full container ID."""
    return _HEX64.fullmatch(text) is not None


def short_id(text: str) -> str:
    """Return the 12 digits by which people know the ID or digest *text*."""
    return text.removeprefix("sha256:")[:12]


def parse_container_name(text: str) -> str:
    """Check a container name chosen by the user and return it without the leading slash."""
    match = _CONTAINER_NAME.fullmatch(text)
    if match is None:
        raise InvalidArgument(f"Invalid container name ({text}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
    return match[1]


def generate_name(taken: Container[str]) -> str:
    """Make up a name that is not in *taken* (names without the leading slash)."""
    adjectives, surnames = _ADJECTIVES.split(), _SURNAMES.split()
    attempt = 0
    while True:
        first, second, third = (int.from_bytes(os.urandom(4), "big") for _ in range(3))
        name = f"{adjectives[first % len(adjectives)]}_{surnames[second % len(surnames)]}"
        if name == "boring_wozniak":  # Steve Wozniak is not boring
            continue
        if attempt:
            name += str(third % 10 ** min(attempt, 9))
        if name not in taken:
            return name
        attempt += 1


_ADJECTIVES = (
    "admiring adoring affectionate agitated amazing angry awesome beautiful blissful bold boring brave busy charming "
    "clever cool compassionate competent condescending confident crazy dazzling determined distracted dreamy eager "
    "ecstatic elastic elated elegant eloquent epic exciting fervent festive flamboyant focused friendly frosty funny "
    "gallant gifted goofy gracious great happy hardcore heuristic hopeful hungry infallible inspiring intelligent "
    "interesting jolly jovial keen kind laughing loving lucid magical modest musing mystifying naughty nervous nice "
    "nifty nostalgic objective optimistic peaceful pedantic pensive practical priceless quirky quizzical recursing "
    "relaxed reverent romantic sad serene sharp silly sleepy stoic strange stupefied suspicious sweet tender thirsty "
    "trusting unruffled upbeat vibrant vigilant vigorous wizardly wonderful xenodochial youthful zealous zen"
)

_SURNAMES = (
    "agnesi albattani allen almeida archimedes ardinghelli aryabhata austin babbage banach bardeen bartik bassi "
    "beaver bell benz bhabha bhaskara black blackburn blackwell bohr booth borg bose bouman boyd brahmagupta brattain "
    "brown burnell buck cannon carson cartwright carver cerf chandrasekhar chaplygin chatelet chatterjee chaum "
    "chebyshev clarke cohen colden cori cray curie curran darwin davinci dewdney dhawan diffie dijkstra dirac driscoll "
    "dubinsky easley edison einstein elbakyan elgamal elion ellis engelbart euclid euler faraday feistel fermat fermi "
    "feynman franklin gagarin galileo galois ganguly gates gauss germain goldberg goldstine goldwasser golick goodall "
    "gould greider grothendieck haibt hamilton haslett hawking heisenberg hellman hermann herschel hertz heyrovsky "
    "hodgkin hofstadter hoover hopper hugle hypatia ishizaka jackson jang jemison jennings jepsen johnson joliot jones "
    "kalam kapitsa kare keldysh keller kepler khayyam khorana kilby kirch knuth kowalevski lalande lamarr lamport "
    "leakey leavitt lederberg lehmann lewin lichterman liskov lovelace lumiere mahavira margulis matsumoto maxwell "
    "mayer mccarthy mcclintock mclaren mclean mcnulty meitner mendel mendeleev meninsky merkle mestorf mirzakhani "
    "montalcini moore morse moser murdock napier nash neumann newton nightingale nobel noether northcutt noyce panini "
    "pare pascal pasteur payne perlman pike poincare poitras proskuriakova ptolemy raman ramanujan rhodes ride ritchie "
    "robinson roentgen rosalind rubin saha sammet sanderson satoshi shamir shannon shaw shirley shockley shtern sinoussi "
    "snyder solomon spence stonebraker sutherland swanson swartz swirles taussig tesla tharp thompson torvalds tu turing "
    "varahamihira vaughan villani visvesvaraya volhard wescoff wilbur wiles williams williamson wilson wing "
    "wozniak wright wu yalow yonath zhukovsky"
)
