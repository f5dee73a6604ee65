"""Reads a page as a browser would, as far as tests need it."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

INLINE = {"b", "strong", "code", "a", "span"}
VOID_ELEMENTS = {"meta", "img", "br", "hr", "link", "input", "use"}
LOADING = {"src", "href", "xlink:href", "action", "data", "poster", "srcset", "formaction"}


@dataclass
class Page:
    """What a page holds.

    Attributes:
        text: All of it that is shown.
        oracle: That part of `text` that stands in the oracle's panel.
        tags: Names of its elements.
        addresses: What its attributes would load or lead to.
        ids: Of its elements.
        faults: Where elements are not closed in order.
    """

    text: str = ""
    oracle: str = ""
    tags: list[str] = field(default_factory=list)
    addresses: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.page = Page()
        self._open: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, attrs)
        if tag not in VOID_ELEMENTS:
            self._open.append((tag, dict(attrs).get("class") or ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID_ELEMENTS:
            return
        if not self._open or self._open[-1][0] != tag:
            self.page.faults.append(f"</{tag}> at {self.getpos()}, within {self._open[-3:]}")
        else:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1][0] in ("style", "script"):
            return
        self.page.text += data
        if any(kind == "oracle" for _, kind in self._open):
            self.page.oracle += data

    def close(self) -> None:
        super().close()
        self.page.faults += [f"<{tag}> is not closed" for tag, _ in self._open]

    def _note(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in INLINE:  # begins on a place of its own
            self.handle_data(" ")
        self.page.tags.append(tag)
        self.page.addresses += [value or "" for name, value in attrs if name in LOADING]
        self.page.ids += [value or "" for name, value in attrs if name == "id"]


def read_page(html: str) -> Page:
    """What `html` holds; texts have single spaces."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    reader.page.text = " ".join(reader.page.text.split())
    reader.page.oracle = " ".join(reader.page.oracle.split())
    return reader.page
