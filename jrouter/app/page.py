"""HTML pages of one file: no script, nothing loaded, and nothing of a log that could become markup.

Names of models, queries and files come from outside. `element` escapes whatever is not `Markup`, and makes `Markup`
itself, so a page that is built of elements alone holds no tag that this package did not write. A
Content-Security-Policy forbids scripts and the network besides.
"""

import html
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jrouter.app.style import STYLE

LEVELS = {"ok": "✓", "caution": "!", "refuse": "✕"}
"""Levels of a verdict, and their signs: never told by a colour alone."""

_VOID = frozenset({"meta", "br", "hr"})
_NAME = re.compile(r"[a-z][a-z0-9-]*")


class Markup(str):
    """HTML that is placed as it is; made by `element` and from this package's own text, never from a log's."""


def plain_text(value: Any) -> str:
    """Text without what a page or a file cannot show: control characters, lone surrogates, turns of direction.

    >>> plain_text("a\\x00b\\u202ec") == "a\\ufffdb\\ufffdc"
    True
    """

    def shown(one: str) -> bool:
        return one in "\n\t" or (
            unicodedata.category(one) not in ("Cc", "Cs") and one not in "\u202a\u202b\u202d\u202e\u2066\u2067\u2068"
        )

    return "".join(one if shown(one) else "\ufffd" for one in str(value))


def text(value: Any) -> Markup:
    """A value as HTML: itself where it is `Markup`, else escaped, quotes too; None is nothing.

    >>> text('<b title="x">')
    '&lt;b title=&quot;x&quot;&gt;'
    """
    if value is None:
        return Markup()
    return value if isinstance(value, Markup) else Markup(html.escape(plain_text(value)))


def with_code(words: Any) -> Markup:
    """Words as HTML, what stands between backticks as code.

    >>> with_code("`a<b` holds"), with_code("one ` only")
    ('<code>a&lt;b</code> holds', 'one ` only')
    """
    if isinstance(words, Markup):
        return words
    parts = str(words).split("`")
    if len(parts) % 2 == 0:
        return text(words)
    return join(element("code", one) if place % 2 else one for place, one in enumerate(parts))


def element(name: str, /, *content: Any, **attributes: Any) -> Markup:
    """One element; content and values of attributes are escaped.

    Args:
      name: of the element.
      content: placed one after another, as of `text`.
      attributes: by name; a trailing `_` is dropped, another is a `-`: `class_`, `aria_label`. None leaves it out.

    Raises:
      ValueError: for a name of an element or attribute that is none, or that can run or load something.

    >>> element("p", "1 < 2", class_="soft")
    '<p class="soft">1 &lt; 2</p>'
    """
    given = []
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        # The pages need no other: a link leads to a place of the page.
        if not _NAME.fullmatch(key) or key.startswith("on") or key in ("src", "srcset", "action", "style"):
            raise ValueError(f"element {name!r}: attribute {key!r} is not for these pages")
        if key == "href" and not str(value).startswith("#"):
            raise ValueError(f"element {name!r}: expected a link within the page, #..., got {value!r}")
        if value is not None:
            given.append(f' {key}="{html.escape(plain_text(value))}"')
    if not _NAME.fullmatch(name) or name in ("script", "iframe", "object", "embed", "link", "base", "form", "style"):
        raise ValueError(f"element {name!r} is not for these pages")
    opened = f"<{name}{''.join(given)}>"
    return Markup(opened if name in _VOID else f"{opened}{join(content)}</{name}>")


def join(parts: Iterable[Any], between: str = "") -> Markup:
    """Parts one after another, each as of `text`."""
    return Markup(html.escape(between).join(text(part) for part in parts))


def level(value: Any) -> Markup:
    """A verdict's level: a sign and the word."""
    word = "unknown" if value is None else str(value)
    known = word if word in LEVELS else "unknown"
    return element("span", f"{LEVELS.get(known, '?')} {word}", class_=f"level {known}")


def bullets(items: Iterable[Any]) -> Markup:
    """A list, each item as of `with_code`; nothing of none."""
    items = [element("li", with_code(item)) for item in items]
    return element("ul", *items) if items else Markup()


def facts(items: Iterable[Sequence[Any]]) -> Markup:
    """Boxes of a name, a value, and remarks in small print where there are any."""
    return element(
        "dl",
        *(
            element(
                "div", element("dt", name), element("dd", value, *(element("small", one) for one in remarks if one))
            )
            for name, value, *remarks in items
        ),
        class_="facts",
    )


def definitions(items: Mapping[str, Any]) -> Markup:
    """Words and what they mean."""
    return element(
        "dl", *(part for word, about in items.items() for part in (element("dt", word), element("dd", about))),
        class_="words",
    )  # fmt: skip


def table(
    header: Sequence[str], rows: Iterable[Sequence[Any]], *, caption: Any, words: Iterable[str] = (), long: str = ""
) -> Markup:
    """A table that scrolls within the page; its first column names the rows.

    Args:
      header: of the columns.
      rows: cells, as of `text`.
      caption: what the table shows.
      words: columns besides the first that hold words; the others hold numbers, to the right.
      long: the column of those that holds sentences.
    """
    kinds = [None if place == 0 or name in words else "number" for place, name in enumerate(header)]
    kinds = ["long" if name == long else kind for name, kind in zip(header, kinds, strict=True)]
    head = [
        element("th", name, scope="col", class_=kind if kind == "number" else None)
        for name, kind in zip(header, kinds, strict=True)
    ]
    body, rows = [], [list(row) for row in rows]
    named = "name" if any(len(str(row[0])) > 12 for row in rows) else None  # has room of its own
    for first, *rest in rows:
        cells = [element("td", cell, class_=kind) for cell, kind in zip(rest, kinds[1:], strict=True)]
        body.append(element("tr", element("th", first, scope="row", class_=named), *cells))
    above = element("caption", element("span", caption))
    whole = element("table", above, element("thead", element("tr", *head)), element("tbody", *body))
    # A region that scrolls can be reached by the keyboard.
    return element("div", whole, class_="scroll", role="region", tabindex=0, aria_label=header[0] + ", a table")


def figure(drawing: Markup, title: str, caption: Any, *more: Any) -> Markup:
    """A drawing of `svg.inline_svg` with a title and what it says; `more` stands between them."""
    return element("figure", drawing, *more, element("figcaption", element("strong", title), caption))


def section(name: str, heading: str, *content: Any) -> Markup:
    """A section that a link `#name` leads to."""
    return element("section", element("h2", heading, id=f"{name}-heading"), *content, id=name,
                   aria_labelledby=f"{name}-heading")  # fmt: skip


def contents(sections: Mapping[str, str]) -> Markup:
    """Links to sections, by name."""
    links = [element("li", element("a", heading, href=f"#{name}")) for name, heading in sections.items()]
    return element("nav", element("ul", *links), aria_label="Contents")


def page(title: str, *, header: Sequence[Any], main: Sequence[Any], footer: Sequence[Any] = ()) -> str:
    """The whole page, one HTML file.

    Args:
      title: of the window.
      header: the heading, and what belongs to it.
      main: sections.
      footer: small print.
    """
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        Markup(f"<style>{STYLE}</style>"),
    )
    body = element("body", element("header", *header), element("main", *main), element("footer", *footer))
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"
