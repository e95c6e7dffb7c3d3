"""Read the fields of a form in a page, as a browser posts them."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any


def fields_of(html: str, begin: str) -> dict[str, list[str]]:
    """The values of each field of the form that begins with this text, such as an id."""
    assert begin in html, begin
    return _Form(html.partition(begin)[2].partition("</form>")[0]).fields


class _Form(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.fields: dict[str, list[str]] = {}
        self._select = self._area = ""
        self.feed(html)

    def _add(self, name: str, value: str) -> None:
        self.fields.setdefault(name, []).append(value)

    def handle_starttag(self, tag: str, attrs: list[Any]) -> None:
        given = dict(attrs)
        name, kind = given.get("name", ""), given.get("type")
        if tag == "input" and name and kind != "submit" and (kind != "checkbox" or "checked" in given):
            self._add(name, given.get("value", "on" if kind == "checkbox" else ""))
        if tag == "select":
            self._select = name
        if tag == "option" and "selected" in given:
            self._add(self._select, given["value"])
        if tag == "textarea":
            self._area = name
            self._add(name, "")

    def handle_data(self, data: str) -> None:
        if self._area:
            self.fields[self._area][-1] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea":
            # A browser leaves out the first line break, and sends each other one as two characters.
            text = self.fields[self._area][-1].removeprefix("\n")
            self.fields[self._area][-1] = text.replace("\r\n", "\n").replace("\n", "\r\n")
            self._area = ""
