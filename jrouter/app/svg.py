"""Drawings within a page: matplotlib figures as inline SVG that takes the page's colours, light or dark.

A drawing's text is text, so names of models are in it: they are cut and cleaned here, never read as formulas, and
escaped by the writers of XML on the way to the page.
"""

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

from jrouter.app.page import Markup, plain_text

SIZE = (4.8, 3.2)
"""Of one panel, in inches: on a phone's width its text is then about as large as drawn."""
LONGEST_LABEL = 26

_SETTINGS: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "axes.formatter.use_mathtext": False,
    "font.size": 9.0,
    "axes.labelsize": 9.0,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.transparent": True,
}
_COLOURS = {"#000000": "currentColor", "#ffffff": "var(--page)", "#0072b2": "var(--blue)"}
_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
_KEPT = {"svg", "g", "path", "defs", "clipPath", "rect", "use", "text", "tspan"}


def label(name: Any, longest: int = LONGEST_LABEL) -> str:
    """A name short enough for a drawing, on one line.

    >>> label("openrouter/anthropic/claude-opus:thinking", 20)
    'openrouter/…thinking'
    """
    one = " ".join(plain_text(name).split())
    if len(one) > longest:
        one = f"{one[: longest // 2 + 1]}…{one[len(one) - (longest - longest // 2 - 2) :]}"
    return f" {one}" if one.startswith("_") else one  # matplotlib hides what begins with an underscore


@contextmanager
def drawing() -> Iterator[None]:
    """Settings under which a drawing is made and written: no formulas, and letters without a glyph are no warning."""
    import matplotlib

    with matplotlib.rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def inline_svg(
    draw: Callable[..., Any], about: str, *, name: str, columns: int = 1, size: tuple[float, float] = SIZE
) -> Markup:
    """What `draw` draws, as an SVG for within a page.

    Args:
      draw: draws on as many axes as there are columns.
      about: what is seen, in words, for who cannot see it.
      name: of the drawing, unlike the others of the page.
      columns: axes beside each other, of one y axis.
      size: width and height, in inches.
    """
    with drawing():
        from matplotlib.figure import Figure  # not pyplot: no state of the process, no display

        figure = Figure(figsize=size, layout="constrained")
        draw(*figure.subplots(1, columns, squeeze=False, sharey=columns > 1)[0])
        written = io.StringIO()
        figure.savefig(written, format="svg", metadata={"Date": None})
    return _for_page(ElementTree.fromstring(written.getvalue()), about, name)


def _for_page(root: ElementTree.Element, about: str, name: str) -> Markup:
    """The SVG with the page's colours and font, and names of parts that no other drawing has."""
    tags: dict[str, str] = {}

    def renamed(value: str) -> str:
        return f"{name}-{tags.setdefault(value, str(len(tags)))}"

    def rebuilt(part: ElementTree.Element) -> ElementTree.Element | None:
        tag = str(part.tag).removeprefix(_SVG)
        if tag not in _KEPT:
            return None
        kept = ElementTree.Element(tag)
        for key, value in part.attrib.items():
            if key == _LINK:
                kept.set("href", f"#{renamed(value.removeprefix('#'))}")
            elif key == "id":
                kept.set("id", renamed(value))
            elif key == "style":
                kept.set("style", _themed(value))
            elif key == "clip-path":
                kept.set(key, re.sub(r"url\(#(.*)\)", lambda found: f"url(#{renamed(found[1])})", value))
            elif "}" not in key and key not in ("version",):
                kept.set(key, value)
        kept.text = part.text if tag in ("text", "tspan") else None
        kept.extend([child for child in map(rebuilt, part) if child is not None])
        return kept

    svg = rebuilt(root)
    if svg is None:
        raise ValueError(f"{name}: expected an SVG, got {root.tag}")
    for key in ("width", "height", "id"):
        svg.attrib.pop(key, None)
    svg.set("role", "img")
    svg.set("aria-label", plain_text(about))
    return Markup(ElementTree.tostring(svg, encoding="unicode"))


def _themed(style: str) -> str:
    """A style without its font, which is the page's, and with the page's colours."""
    rules = [rule.strip() for rule in style.split(";")]
    own = "; ".join(rule for rule in rules if rule and not rule.startswith(("font", "stroke-linejoin")))
    size = re.search(r"font(?:-size)?: [^;]*?([\d.]+)px", style)
    own = f"font-size: {size[1]}px; {own}" if size else own
    for colour, page_colour in _COLOURS.items():
        own = own.replace(colour, page_colour)
    return own
