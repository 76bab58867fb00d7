"""Options of ONNX Runtime's CUDA provider that the environment may set, for trials on a card."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from oarseg.errors import InputError

OPTIONS_VARIABLE: Final = "OARSEG_CUDA_OPTIONS"
TF32: Final = "use_tf32"
LONGEST_TEXT: Final = 10_000
LARGEST_LIMIT: Final = 1 << 50

_SWITCH: Final = ("0", "1")
# The options that may be set, and their values; None takes a number of bytes.
KNOWN: Final[Mapping[str, tuple[str, ...] | None]] = MappingProxyType(
    {
        "arena_extend_strategy": ("kNextPowerOfTwo", "kSameAsRequested"),
        "cudnn_conv_algo_search": ("EXHAUSTIVE", "HEURISTIC", "DEFAULT"),
        "cudnn_conv_use_max_workspace": _SWITCH,
        "do_copy_in_default_stream": _SWITCH,
        "fuse_conv_bias": _SWITCH,
        "gpu_mem_limit": None,
        "prefer_nhwc": _SWITCH,
        TF32: _SWITCH,
    }
)


def asked_options(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Read ``OARSEG_CUDA_OPTIONS``; nothing if it is not set, or empty.

    Raises:
        InputError: it is no JSON object of known options and values.
    """
    text = environment.get(OPTIONS_VARIABLE, "")
    if not text.strip():
        return {}
    return {name: _value(name, value) for name, value in _pairs(text)}


def _pairs(text: str) -> list[tuple[str, Any]]:
    """Read a JSON object as pairs, so that a name that stands there twice is seen."""
    try:
        if len(text) > LONGEST_TEXT:
            raise ValueError
        pairs = json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:
        raise _refusal(f"a JSON object of at most {LONGEST_TEXT} characters", text) from error
    if not isinstance(pairs, _Pairs):
        raise _refusal("a JSON object", text)
    names = [name for name, _ in pairs]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise _refusal("each option once", twice[0])
    return pairs


class _Pairs(list[tuple[str, Any]]):
    """The names and values of a JSON object, in their order."""


def _value(name: str, value: Any) -> str:
    """Write an option's value as the provider takes it."""
    if name not in KNOWN:
        raise _refusal(f"options out of {', '.join(KNOWN)}", name)
    allowed = KNOWN[name]
    if isinstance(value, bool):
        value = int(value)
    text = str(value) if isinstance(value, int | str) else ""
    if allowed is None:
        if not (text.isascii() and text.isdecimal() and 0 < int(text[:20]) <= LARGEST_LIMIT):
            raise _refusal(f"a number of bytes for {name}", value)
    elif text not in allowed:
        raise _refusal(f"{' or '.join(allowed)} for {name}", value)
    return text


def _refusal(expected: str, found: object) -> InputError:
    plain = isinstance(found, str | int | float | None)
    shown = ascii(found) if plain else "a list or an object"
    shortened = shown if len(shown) <= 60 else f"{shown[:60]}…"
    return InputError(
        f"{OPTIONS_VARIABLE}: expected {expected}, found {shortened}; correct it, or leave it unset"
    )
