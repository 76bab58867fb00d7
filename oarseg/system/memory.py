"""Check, before the work, that a case fits into the memory that this process may use.

Several limits apply, and the tightest counts: the container's (cgroup version 2 or 1), the
address space and data limits of the process (challenge platforms set RLIMIT_DATA), and the
machine's free RAM. A process that exceeds the first or the last is killed without a message.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from oarseg.errors import ResourceError
from oarseg.system.usage import STATUS

CGROUP = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")
GIB = 2**30
# cgroup version 1 expresses "no limit" as a number near 2**63.
_UNLIMITED = 2**60
# Limits on virtual memory count stacks of threads and arenas of allocators in full.
VIRTUAL_RESERVE = 256 << 20


@dataclass(frozen=True)
class Room:
    """The memory that one limit leaves.

    Attributes:
        name: the limit, in words.
        limit: bytes that it grants this process.
        used: bytes of these that the process already holds.
        reserve: bytes that count against it without ever being touched.
    """

    name: str
    limit: int
    used: int
    reserve: int = 0

    @property
    def left(self) -> int:
        """Bytes that the process may still take."""
        return self.limit - self.used - self.reserve


@dataclass(frozen=True)
class Need:
    """The memory that a case takes at its peak, beyond what the process already holds.

    Attributes:
        what: the work, for messages.
        fixed: bytes whatever the number of slices.
        per_slice: bytes that each slice of the image adds.
        slices: of the image.
    """

    what: str
    fixed: int
    per_slice: int
    slices: int

    @property
    def bytes(self) -> int:
        """Bytes for all slices."""
        return self.fixed + self.per_slice * self.slices

    def slices_in(self, left: int) -> int:
        """Return how many slices fit into ``left`` bytes."""
        return max(0, (left - self.fixed) // max(1, self.per_slice))


def check_memory(need: Need, *, room: Room | None = None, hint: str = "") -> None:
    """Refuse work that would not fit into memory.

    Args:
        need: the forecast.
        room: the tightest limit; found if it is not given.
        hint: what else the user could do, a clause.

    Raises:
        ResourceError: the work does not fit; the message gives the estimate, the limit and
            what would fit.
    """
    room = room or tightest_room()
    if need.bytes <= room.left:
        return
    fits = need.slices_in(room.left)
    raise ResourceError(
        f"{need.what} needs about {gib(need.bytes + room.used + room.reserve)} of memory, and "
        f"{room.name} is {gib(room.limit)}; give it more{hint}"
        + (f", or crop it to {fits} of its {need.slices} slices" if fits else "")
    )


def gib(count: int) -> str:
    """Say a number of bytes in GiB."""
    return f"{count / GIB:.1f} GiB"


def tightest_room(root: Path = CGROUP, meminfo: Path = MEMINFO, status: Path = STATUS) -> Room:
    """Return the limit that leaves the least memory."""
    return min(memory_rooms(root, meminfo, status), key=lambda room: room.left)


def memory_rooms(root: Path = CGROUP, meminfo: Path = MEMINFO, status: Path = STATUS) -> list[Room]:
    """List every memory limit on this process; the RAM is always one of them."""
    own = _fields(status)
    resident = own.get("VmRSS", 0)
    found = [
        Room(name, limit, own.get(key, 0), VIRTUAL_RESERVE)
        for name, kind, key in (
            ("RLIMIT_DATA", resource.RLIMIT_DATA, "VmData"),
            ("RLIMIT_AS", resource.RLIMIT_AS, "VmSize"),
        )
        if (limit := resource.getrlimit(kind)[0]) != resource.RLIM_INFINITY
    ]
    found += [Room("the container's limit", limit, used) for limit, used in container_limits(root)]
    free = _fields(meminfo).get("MemAvailable")
    if free is not None:
        found.append(Room("the free RAM", free + resident, resident))
    return found or [Room("the address space", _UNLIMITED, resident)]


def container_limits(root: Path) -> Iterator[tuple[int, int]]:
    """Yield limit and use of the container, version 2, then 1; droppable caches count as free."""
    for limit_file, used_file, stat_file, cache in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
            "total_inactive_file",
        ),
    ):
        if not (root / limit_file).is_file():
            continue
        text = (root / limit_file).read_text().strip()
        if text == "max" or int(text) >= _UNLIMITED:
            continue
        used = int((root / used_file).read_text())
        stat = dict(line.split() for line in (root / stat_file).read_text().splitlines())
        yield int(text), max(0, used - int(stat.get(cache, 0)))


def _fields(path: Path) -> dict[str, int]:
    """Parse ``Name: 123 kB`` lines into bytes."""
    if not path.is_file():
        return {}
    lines = (line.split() for line in path.read_text(errors="replace").splitlines())
    return {
        words[0].rstrip(":"): int(words[1]) * 1024
        for words in lines
        if len(words) == 3 and words[2] == "kB"
    }
