"""Compares two runs of ``make gpu-all``; a slower network or a changed label is a failure.

    python bench/gpu_compare.py bench/results/OLD.json bench/results/NEW.json
    python bench/gpu_compare.py --folder bench/results NEW.json

With ``--folder`` the older run is the newest other one of the same card there; without any there is
nothing to compare.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A shared machine varies by this much from day to day.
SLOWER = 1.15
# Of these figures a larger one is worse, besides all of the sweep.
SECONDS = ("seconds", "network_s")
LABELS = ("labels", "differ_in_body")


@dataclass(frozen=True)
class Change:
    """One figure in both runs."""

    step: str
    figure: str
    old: Any
    new: Any

    @property
    def fault(self) -> str:
        """What is wrong with it; empty if nothing is."""
        if self.figure.split(": ")[-1] in LABELS:
            return "" if self.new == self.old else "the labels changed"
        if isinstance(self.old, str):
            return ""
        if isinstance(self.new, str):
            return f"was measured before, now {self.new}"
        return "slower" if self.new > SLOWER * self.old else ""

    @property
    def text(self) -> str:
        """The change in a line."""
        return f"{self.step}: {self.figure}: {self.old} → {self.new}: {self.fault}"


def main() -> int:
    """Compare; the exit status is 1 if something got worse."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path, nargs="?")
    parser.add_argument("new", type=Path)
    parser.add_argument("--folder", type=Path, help="where older runs lie")
    arguments = parser.parse_args()
    new = json.loads(arguments.new.read_text(encoding="utf-8"))
    older = arguments.old or newest_before(arguments.new, new, arguments.folder)
    if older is None:
        print("no older run of this card: nothing to compare")
        return 0
    faults = compare(json.loads(older.read_text(encoding="utf-8")), new)
    print(f"{older} → {arguments.new}: {len(faults)} faults")
    print(*faults, sep="\n")
    return 1 if faults else 0


def newest_before(path: Path, document: dict[str, Any], folder: Path | None) -> Path | None:
    """Find the newest other run of the same card; names begin with the date."""
    if folder is None:
        return None
    for other in sorted(folder.glob("*-gpu-*.json"), reverse=True):
        if other.resolve() == path.resolve():
            continue
        card = json.loads(other.read_text(encoding="utf-8"))["card"]
        if card["name"] == document["card"]["name"]:
            return other
    return None


def compare(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """List what got worse, a line each."""
    before, after = (_by_name(document) for document in (old, new))
    faults = [
        f"{name}: done before, now {after[name]['status'] if name in after else 'left out'}"
        for name, step in before.items()
        if step["status"] == "done" and after.get(name, {}).get("status") != "done"
    ]
    shared = [name for name in before if name in after]
    changes = (c for name in shared for c in _changes(name, before[name], after[name]))
    return [*faults, *(change.text for change in changes if change.fault)]


def _by_name(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {step["name"]: step for step in document["steps"]}


def _changes(name: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[Change]:
    for figure, value in old["figures"].items():
        kind = figure.split(": ")[-1]
        if figure in new["figures"] and (name == "sweep" or kind in SECONDS + LABELS):
            yield Change(name, figure, value, new["figures"][figure])


if __name__ == "__main__":
    sys.exit(main())
