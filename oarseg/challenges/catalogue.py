"""Load a challenge by name, or from the user's own TOML file.

Inputs, labels and scoring rules are data in the ``*.toml`` files beside this module.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from oarseg.challenges import label_table, toml_file
from oarseg.challenges.challenge import Challenge
from oarseg.errors import InputError

DEFAULT_CHALLENGE = "han_seg"


def challenge_names() -> tuple[str, ...]:
    """Return the names of the challenges that the package contains."""
    files = resources.files("oarseg").joinpath("challenges").iterdir()
    return tuple(sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml")))


def load_challenge(name: str, *, table: Path | None = None) -> Challenge:
    """Load one of the package's challenges, or one from the user's TOML file.

    Args:
        name: one of ``challenge_names()``, or a path that ends with ``.toml``.
        table: the user's label table, TOML or nnU-Net's ``dataset.json``, for a challenge
            that takes one.

    Raises:
        InputError: no such challenge, or a file breaks a rule; names line and key.
    """
    source, text = _read_source(name)
    document = toml_file.parse_toml(text, source=source)
    if table is not None:
        if not document.get("own_labels"):
            raise InputError(f"{table}: challenge {name} has its own labels and takes no table")
        return _load_with_table(document, source, table)
    return toml_file.validate_document(
        label_table.fill_colours(document), Challenge, source=source, text=text
    )


def _read_source(name: str) -> tuple[str, str]:
    """Return the source of a challenge, as messages name it, and its TOML text."""
    if not name.endswith(".toml"):
        if name not in challenge_names():
            known = ", ".join(challenge_names())
            raise InputError(f"challenge {name!r}: expected one of {known}, or a .toml file")
        found = resources.files("oarseg").joinpath("challenges", f"{name}.toml")
        return f"{name}.toml", found.read_text(encoding="utf-8")
    try:
        return name, Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{name}: expected a challenge's TOML file, cannot read it") from error


def _load_with_table(document: dict[str, object], source: str, table: Path) -> Challenge:
    """Load a challenge with the user's label table, which messages name as the source."""
    tables, text = label_table.read_label_table(table)
    return toml_file.validate_document(
        label_table.fill_colours(document | tables), Challenge, source=str(table), text=text
    )
