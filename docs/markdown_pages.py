"""Markdown files of the repository as pages of the site: anchors as GitHub makes them, links that lead somewhere."""

import html
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote

LINK = re.compile(r'(<(?:a|img)\b[^>]*?\b(?:href|src)=")([^"]*)(")')
IMAGES = {".png", ".svg", ".jpg", ".gif"}


class Page(NamedTuple):
    """A Markdown file as HTML.

    Attributes:
      file: the page's name in the site, `assumptions.html`.
      label: what links to it say.
      body: its HTML.
      contents: (anchor, heading) of its sections.
    """

    file: str
    label: str
    body: str
    contents: list[tuple[str, str]]


def anchored(body: str) -> tuple[str, list[tuple[int, str, str]]]:
    """HTML whose headings have the ids that GitHub gives them; (level, id, heading) of each.

    >>> anchored("<h2>10 million rows?</h2>")
    ('<h2 id="10-million-rows">10 million rows?</h2>', [(2, '10-million-rows', '10 million rows?')])
    """
    found: list[tuple[int, str, str]] = []

    def heading(match: re.Match[str]) -> str:
        text = html.unescape(re.sub(r"<[^>]*>", "", match[2])).strip()
        plain = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        before = [one for _, one, _ in found]
        name = next(one for n in range(len(found) + 1) if (one := f"{plain}-{n}" if n else plain) not in before)
        found.append((int(match[1]), name, text))
        return f'<h{match[1]} id="{name}">{match[2]}</h{match[1]}>'

    return re.sub(r"<h([1-6])(?: [^>]*)?>(.*?)</h\1>", heading, body, flags=re.DOTALL), found


def make_page(root: Path, source: str, file: str, label: str, to_html: Callable[[str], str]) -> Page:
    """The page of one Markdown file; its links are still those of the repository."""
    body, headings = anchored(str(to_html((root / source).read_text(encoding="utf-8"))))
    return Page(file, label, body, [(anchor, text) for level, anchor, text in headings if level == 2])


def modules_by_path(root: Path, modules: list[str]) -> dict[str, str]:
    """The page of each module's file, and of each package's folder: `jrouter/losses.py` -> `jrouter/losses.html`."""
    pages = {}
    for module in modules:
        path = module.replace(".", "/")
        pages[f"{path}.py"] = pages[f"{path}/__init__.py"] = pages[path] = f"{path}.html"
    return {path: page for path, page in pages.items() if (root / path).exists()}


def linked(pages: dict[str, Page], modules: dict[str, str], root: Path, out: Path, source_url: str | None) -> list[str]:
    """Writes the images that pages show, and makes their links those of the site, in place.

    A link to a Markdown file or a module leads to its page; to another file or folder of the repository, to
    `source_url`, or without one it is text.

    Args:
      pages: by path of the Markdown file; changed.
      modules: pages of the API, as `modules_by_path` has them.
      root: the repository.
      out: folder of the site.
      source_url: where the repository's files are shown, `https://host/owner/jrouter/blob/main`.

    Returns:
      Links to files that are not there, a line each.
    """
    broken = []
    for source, page in pages.items():

        def place(match: re.Match[str], source: str = source) -> str:
            target, anchor = _split(html.unescape(match[2]))
            path = _in_repository(source, target) if target else source
            if re.match(r"[a-z]+:|//", match[2]):
                return match[0]
            if path is None or not (root / path).exists():
                broken.append(f"{source}: a link to {match[2]}, which is not there")
                return match[0]
            if path in pages:
                return match[1] + (pages[path].file if target else "") + (f"#{anchor}" if anchor else "") + match[3]
            if path in modules:
                return match[1] + modules[path] + match[3]
            if PurePosixPath(path).suffix in IMAGES and match[0].startswith("<img"):
                (out / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(root / path, out / path)
                return match[1] + path + match[3]
            return match[1] + (f"{source_url.rstrip('/')}/{path}" if source_url else "") + match[3]

        body = LINK.sub(place, page.body)
        pages[source] = page._replace(body=re.sub(r'<a href="">(.*?)</a>', r"\1", body, flags=re.DOTALL))
    return broken


def dangling(site: Path) -> list[str]:
    """Links and images of a site's pages that lead to no file or no heading of it, or to a script or image outside."""
    pages = {file: file.read_text(encoding="utf-8") for file in sorted(site.rglob("*.html"))}
    anchors = {file: set(re.findall(r'\bid="([^"]*)"', page)) for file, page in pages.items()}
    wrong = set()
    for file, page in pages.items():
        shown = re.sub(r"(<script\b[^>]*>).*?</script>", r"\1", page, flags=re.DOTALL)
        for kind, address in re.findall(r'<[^>]*?\b(href|src)="([^"]*)"', shown):
            target, anchor = _split(html.unescape(address))
            if re.match(r"[a-z]+:|//", address):
                there = kind == "href" or address.startswith("data:")
            else:
                leads_to = Path(os.path.normpath(file.parent / target)) if target else file
                there = leads_to.exists() and (not anchor or anchor in anchors.get(leads_to, ()))
            if not there:
                wrong.add(f"{file.relative_to(site)}: {kind} {address} leads nowhere")
    return sorted(wrong)


def _split(address: str) -> tuple[str, str]:
    target, _, anchor = address.partition("#")
    return unquote(target), unquote(anchor)


def _in_repository(source: str, target: str) -> str | None:
    """A path relative to a Markdown file as one of the repository, or None for one outside it."""
    path = os.path.normpath(PurePosixPath(source).parent / target)
    return None if path.startswith(("..", "/")) else PurePosixPath(path).as_posix()
