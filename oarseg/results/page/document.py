"""Write HTML whose text is text: whatever a name holds, it cannot become a tag or a script.

Elements are built as a tree, and the standard library's serialiser escapes what is in it. Only
our own style and script are written as they are, and a policy in the page allows these two by
their hashes and nothing else: no connection, no image, no frame, no form.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

PACKAGE = "oarseg.results.page"


def add(parent: Element, tag: str, text: object = None, **attributes: object) -> Element:
    """Add an element with a text.

    Args:
        parent: what to add it to.
        tag: its name.
        text: its text; None for none.
        attributes: by name; ``class_`` stands for class and ``aria_label`` for aria-label.
            One that is False or None is left out, and one that is True has no value.
    """
    child = SubElement(parent, tag)
    if text is not None:
        child.text = str(text)
    for name, value in attributes.items():
        if value is not None and value is not False:
            child.set(name.rstrip("_").replace("_", "-"), "" if value is True else str(value))
    return child


def add_data(parent: Element, identifier: str, document: Any) -> None:
    """Add data for the page's script; no part of it can end the element that holds it."""
    text = json.dumps(document, separators=(",", ":")).replace("<", "\\u003c")
    add(parent, "script", text, type="application/json", id=identifier)


def add_packed(parent: Element, identifier: str, packed: bytes) -> None:
    """Add compressed bytes for the page's script."""
    text = base64.b64encode(packed).decode("ascii")
    add(parent, "script", text, type="text/plain", id=identifier)


def asset(name: str) -> str:
    """Return one of the files beside this module."""
    return resources.files(PACKAGE).joinpath(name).read_text(encoding="utf-8")


def render(title: str, body: Element, *, scripts: Sequence[str] = ()) -> str:
    """Return a whole page.

    Args:
        title: of the window.
        body: the ``body`` element.
        scripts: files that make up the script, joined in one function.
    """
    style, code = asset("page.css"), _joined_script(scripts)
    root = Element("html", lang="en")
    head = add(root, "head")
    add(head, "meta", charset="utf-8")
    policy = _policy(style, code)
    meta = add(head, "meta", content=policy)
    meta.set("http-equiv", "Content-Security-Policy")
    add(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
    add(head, "meta", name="referrer", content="no-referrer")
    add(head, "title", title)
    add(head, "style", style)
    root.append(body)
    if code:
        add(body, "script", code)
    # A file name may hold bytes that are no text.
    text = tostring(root, encoding="unicode", method="html")
    return "<!DOCTYPE html>\n" + text.encode("utf-8", "replace").decode("utf-8") + "\n"


def _joined_script(names: Sequence[str]) -> str:
    if not names:
        return ""
    return '"use strict";\n(() => {\n' + "\n".join(map(asset, names)) + "})();\n"


def _policy(style: str, code: str) -> str:
    parts = ["default-src 'none'", f"style-src '{_hash(style)}'"]
    parts += [f"script-src '{_hash(code)}'"] if code else []
    return "; ".join([*parts, "base-uri 'none'", "form-action 'none'"])


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"
