import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from xml.etree.ElementTree import Element

import pytest

from oarseg.results.page.case_page import VIEWER
from oarseg.results.page.document import add, add_data, add_packed, asset, render

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&"


class Reader(HTMLParser):
    """Tags, and the text of each."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], str]] = []
        self.inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), ""))
        self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            tag, attributes, text = self.found[-1]
            self.found[-1] = (tag, attributes, text + data)


def read(page: str) -> list[tuple[str, dict[str, str | None], str]]:
    reader = Reader()
    reader.feed(page)
    return reader.found


def hostile_page() -> str:
    body = Element("body")
    add(body, "p", HOSTILE, title=HOSTILE, data_name=HOSTILE)
    add_data(body, "data", {HOSTILE: HOSTILE})
    return render(HOSTILE, body, scripts=VIEWER)


def test_whatever_a_name_holds_it_is_text() -> None:
    found = read(hostile_page())
    tags = [tag for tag, _, _ in found]
    assert tags.count("script") == 2
    assert "img" not in tags
    assert ("title", {}, HOSTILE) in found
    paragraph = next(item for item in found if item[0] == "p")
    assert paragraph == ("p", {"title": HOSTILE, "data-name": HOSTILE}, HOSTILE)
    data = next(text for _, attributes, text in found if attributes.get("id") == "data")
    assert json.loads(data) == {HOSTILE: HOSTILE}


def test_only_our_own_style_and_script_may_run() -> None:
    found = read(hostile_page())
    policy = next(a["content"] for t, a, _ in found if a.get("http-equiv"))
    assert policy is not None
    rules = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["base-uri"] == rules["form-action"] == "'none'"
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        text = next(text for t, a, text in found if t == tag and "type" not in a)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"


def test_nothing_is_loaded_from_anywhere() -> None:
    for name in (*VIEWER, "sorting.js", "page.css"):
        text = asset(name)
        assert not re.search(r"https?:|//[a-z]+\.|import\s*\(|fetch\(|XMLHttp|url\(|@import", text)
        assert "</" not in text
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|webgl", text
        )


def test_bytes_come_back() -> None:
    body = Element("body")
    add_packed(body, "layer0", bytes(range(256)))
    found = read(render("x", body))
    text = next(text for _, attributes, text in found if attributes.get("id") == "layer0")
    assert base64.b64decode(text) == bytes(range(256))


def test_bytes_that_are_no_text_do_not_stop_a_page() -> None:
    body = Element("body")
    add(body, "p", "scan\udcff.mha")
    assert "scan?.mha" in render("x", body)


@pytest.mark.parametrize(("value", "expected"), [(None, None), (False, None), (True, ""), (3, "3")])
def test_attributes(value: object, expected: str | None) -> None:
    child = add(Element("p"), "input", aria_label=value)
    assert child.get("aria-label") == expected
