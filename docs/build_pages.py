"""Pages of the API from its docstrings, and the repository's Markdown files beside them: one static folder.

    pip install -e ".[docs]" && python docs/build_pages.py --out site      # open site/index.html; half a minute

Nothing on the pages comes from elsewhere. It fails, with a line for each fault and without a folder, where pdoc
warns, where a public name of jrouter has no docstring or explains other parameters than it has, where a module of
`contents.MODULES` is not there, and where a link leads nowhere.
"""

import argparse
import inspect
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # read when JAX is imported
os.environ["PDOC_EMBED_IMAGES"] = "0"

from contents import MODULES, PAGES
from cross_links import linked_names, targets
from docstrings import faults
from markdown_pages import dangling, linked, make_page, modules_by_path

import jrouter

ROOT = Path(__file__).parents[1]


def subjects() -> dict[str, list[str]]:
    """Full names of the modules under each heading; at last those of public names that have none.

    Raises:
      ValueError: where there is no such module.
    """
    there = [one.name for one in walk_packages(jrouter.__path__, "jrouter.")]
    found = {}
    for subject, patterns in MODULES.items():
        found[subject] = []
        for pattern in patterns.split():
            names = sorted(name for name in there if fnmatchcase(name, f"jrouter.{pattern}"))
            if not names:
                raise ValueError(f"docs/contents.py, {subject}: there is no module jrouter.{pattern}")
            found[subject] += names
    listed = {name for names in found.values() for name in names}
    public = {what.__module__ for what in _public().values()}
    return found | ({"Further modules": sorted(public - listed)} if public - listed else {})


def public_faults() -> Iterator[str]:
    """What is wrong with the docstrings of public names."""
    for name, what in _public().items():
        yield from faults(f"jrouter.{name}", what, public=True)


def _public() -> dict[str, Any]:
    """Functions and classes that `jrouter` exports."""
    every = {name: getattr(jrouter, name) for name in jrouter.__all__}
    return {name: what for name, what in every.items() if inspect.isfunction(what) or inspect.isclass(what)}


def build(out: Path, source_url: str | None) -> list[str]:
    """Writes the site into an empty folder; what is wrong with it, a line each."""
    import pdoc.render
    from documents import documents_of, readable
    from pdoc.render_helpers import to_html

    by_subject = subjects()
    modules = [name for names in by_subject.values() for name in names]
    wrong = list(public_faults())
    pages = {source: make_page(ROOT, source, f"{file}.html", label, to_html) for source, (file, label) in PAGES.items()}
    wrong += linked(pages, modules_by_path(ROOT, ["jrouter", *modules]), ROOT, out, source_url)

    pdoc.render.configure(docformat="google", template_directory=Path(__file__).parent / "templates")
    pdoc.render.env.globals |= {"pages": list(pages.values()), "subjects": by_subject}
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        documents = documents_of(modules)
        found = targets(documents)
        for name, module in documents.items():
            page = readable(pdoc.render.html_module(module, documents))
            write(out / f"{name.replace('.', '/')}.html", linked_names(page, found, name.count(".")))
        write(out / "index.html", pdoc.render.html_index(documents))
        once = {
            name: module for name, module in documents.items() if name != "jrouter"
        }  # which has names of the others
        write(out / "search.js", readable(pdoc.render.search_index(once)))
    for page in pages.values():
        made = pdoc.render.env.get_template("page.html.jinja2").render(page=page)
        write(out / page.file, linked_names(made, found))
    members = documents["jrouter"].members
    wrong += [f"jrouter.{name}: no docstring" for name in jrouter.__all__ if not members[name].docstring]
    return wrong + [f"pdoc: {one.message}" for one in warned] + dangling(out)


def write(file: Path, text: str) -> None:
    """Writes a file into a folder that may not be there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "site", help="the folder, made anew (site)")
    parser.add_argument(
        "--source-url", help="where the repository's files are shown, as https://host/jrouter/blob/main"
    )
    asked = parser.parse_args()
    out = asked.out.resolve()
    if out.exists() and any(out.iterdir()) and not (out / "search.js").exists():
        parser.error(f"{asked.out} has other files than pages: name a folder that may be replaced")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        new = Path(folder) / "site"
        new.mkdir()
        wrong = build(new, asked.source_url)
        if wrong:
            print(*wrong, f"{len(wrong)} faults: no pages are written", sep="\n", file=sys.stderr)
            return 1
        shutil.rmtree(out, ignore_errors=True)
        new.rename(out)
    print(f"{sum(1 for _ in out.rglob('*.html'))} pages in {asked.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
