"""List public names that two or more modules define: one meaning, one name, one home.

    python bench/homonyms.py

Exit status 1 when a name has several homes and no reason below, or a reason is out of date.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "oarseg"
# Why a name may have several homes.
REASONS: dict[str, str] = {}
# Every module that logs has its own.
IGNORED = {"log", "logger"}


def public_names(module: ast.Module) -> Iterator[str]:
    """Names that a module defines at its top level, imports aside."""
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                parts = target.elts if isinstance(target, ast.Tuple) else [target]
                yield from (part.id for part in parts if isinstance(part, ast.Name))


def names_with_several_homes(package: Path) -> dict[str, list[str]]:
    """Public name → the modules that define it, for names that two or more define."""
    homes = defaultdict(list)
    for path in sorted(package.rglob("*.py")):
        for name in sorted(set(public_names(ast.parse(path.read_text(encoding="utf-8"))))):
            if not name.startswith("_") and name not in IGNORED:
                homes[name].append(str(path.relative_to(package.parent)))
    return {name: paths for name, paths in sorted(homes.items()) if len(paths) > 1}


def main() -> int:
    """Print the names, each with its homes and its reason; returns the exit status."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    several = names_with_several_homes(PACKAGE)
    for name, paths in several.items():
        print(f"{name}: {', '.join(paths)}; {REASONS.get(name, 'NO REASON')}")
    outdated = REASONS.keys() - several.keys()
    for name in sorted(outdated):
        print(f"{name}: has one home; take its reason out")
    unexplained = several.keys() - REASONS.keys()
    print(f"{len(several)} names with several homes, {len(unexplained)} without a reason")
    return 1 if unexplained or outdated else 0


if __name__ == "__main__":
    sys.exit(main())
