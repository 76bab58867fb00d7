"""Load a challenge by name, or from a TOML file of the user's own."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from oarseg.challenges import label_table, toml_file
from oarseg.challenges.challenge import Challenge
from oarseg.errors import InputError

DEFAULT_CHALLENGE = "han_seg"


def challenge_names() -> tuple[str, ...]:
    """The challenges that come with the package."""
    files = resources.files("oarseg").joinpath("challenges").iterdir()
    return tuple(sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml")))


def load_challenge(name: str, *, table: Path | None = None) -> Challenge:
    """Load a challenge that comes with the package, or one from a TOML file's path.

    Args:
        name: one of ``challenge_names()``, or a path that ends with ``.toml``.
        table: the user's label table, TOML or nnU-Net's ``dataset.json``, for a challenge
            that takes one.

    Raises:
        InputError: no such challenge, or a file breaks a rule: names line and key.
    """
    source, text = _source(name)
    document = toml_file.parse_toml(text, source=source)
    if table is not None:
        if not document.get("own_labels"):
            raise InputError(f"{table}: challenge {name} has its own labels and takes no table")
        return _with_table(document, source, table)
    return toml_file.validate_document(
        label_table.with_colours(document), Challenge, source=source, text=text
    )


def _source(name: str) -> tuple[str, str]:
    """Where a challenge's facts stand, for messages, and their text."""
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


def _with_table(document: dict[str, object], source: str, table: Path) -> Challenge:
    """A challenge and the user's label table; messages name the table, which is new."""
    tables, text = label_table.read_label_table(table)
    return toml_file.validate_document(
        label_table.with_colours(document | tables), Challenge, source=str(table), text=text
    )
