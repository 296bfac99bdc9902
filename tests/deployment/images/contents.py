"""What is in an image, and what must not be."""

import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

# What the engine mounts over in a container.
MOUNTED = re.compile(r"(dev|proc|sys)(/|$)")

SERVICE_LACKS: Mapping[str, re.Pattern[str]] = {
    "torch": re.compile(r"(^|/)(torch|torchvision|triton)(/|$|-\d)"),
    "a compiler": re.compile(
        r"(^|/)s?bin/([\w.]+-)*(gcc|g\+\+|cc|c\+\+|cpp|clang|ld|as|make|cmake|gfortran|rustc|cargo|go|nvcc|ptxas)"
        r"(-[\d.]+)?$"
    ),
    "a test, or data for one": re.compile(
        r"^(app|opt)/(.*/)?tests?(/|$)|mnist|-ubyte|^app/(?!service(/|$))."
    ),
}
LACKS: Mapping[str, re.Pattern[str]] = {
    "an installer": re.compile(r"(^|/)site-packages/pip/|^(usr/local|opt/venv)/bin/pip"),
    "a key or a setting of somebody's": re.compile(
        r"(^|/)(\.env|pip\.conf|\.netrc|\.pypirc|id_(rsa|ecdsa|ed25519))$"
    ),
}
TRAINER_LACKS: Mapping[str, re.Pattern[str]] = {
    "a test, or data for one": re.compile(r"^app/(.*/)?tests?(/|$)|^app/(?!(service|trainer)(/|$))."),
}


class Entry(NamedTuple):
    """A path in an image, without the slash before it."""

    path: str
    mode: int
    user: int
    group: int
    size: int
    is_link: bool = False
    is_file: bool = True


def entries(archive: tarfile.TarFile) -> Iterator[Entry]:
    """The paths of an exported image."""
    for member in archive:
        path = member.name.removeprefix("./").strip("/")
        if path not in ("", ".") and not MOUNTED.match(path):
            yield Entry(
                path, member.mode, member.uid, member.gid, member.size, member.issym(), member.isreg()
            )


def complaints(
    found: Iterable[Entry],
    lacks: Mapping[str, re.Pattern[str]],
    writable: Iterable[str],
    user: int,
    group: int,
) -> list[str]:
    """What is wrong with an image that runs as this user, one line for each path.

    ``lacks`` are patterns of paths by what they stand for; only ``writable`` may be written to.
    """
    allowed, unwanted = set(writable), {**lacks, **LACKS}
    wrong = []
    for entry in found:
        wrong += [f"{entry.path}: {what}" for what, pattern in unwanted.items() if pattern.search(entry.path)]
        if not entry.is_link and entry.path not in allowed and _is_writable(entry, user, group):
            wrong.append(f"{entry.path}: the user of the image can write to it")
        if entry.is_file and entry.mode & 0o6000:
            wrong.append(f"{entry.path}: it runs with the rights of another")
    return wrong


def _is_writable(entry: Entry, user: int, group: int) -> bool:
    if entry.user == user:
        return bool(entry.mode & 0o200)
    if entry.group == group:
        return bool(entry.mode & 0o020)
    return bool(entry.mode & 0o002)
