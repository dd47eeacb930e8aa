"""Docstrings say what the signatures say; the pages made of them show equations, lead somewhere, and fetch nothing."""

import doctest
import importlib
import inspect
import re
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from pkgutil import walk_packages

import pytest

import jrouter
from jrouter import losses, metrics

DOCS = Path(__file__).parents[1] / "docs"
sys.path.insert(0, str(DOCS))

import build_pages  # noqa: E402 (scripts are no package)
import cross_links  # noqa: E402
import docstrings  # noqa: E402
import markdown_pages  # noqa: E402


def defined_in(module):
    """Functions and classes of a module, by qualified name."""
    for name, what in vars(module).items():
        if (inspect.isfunction(what) or inspect.isclass(what)) and what.__module__ == module.__name__:
            yield f"{module.__name__}.{name}", what


def test_every_public_name_is_explained():
    assert list(build_pages.public_faults()) == []


def test_every_module_is_listed_once_and_those_of_public_names_are_not_forgotten(monkeypatch):
    modules = [name for names in build_pages.subjects().values() for name in names]
    assert len(set(modules)) == len(modules) > 100
    monkeypatch.setattr(build_pages, "MODULES", {"All": "metrics nuisances nuisances.r*"})
    assert build_pages.subjects()["All"][:2] == ["jrouter.metrics", "jrouter.nuisances"]
    assert "jrouter.losses" in build_pages.subjects()["Further modules"]
    monkeypatch.setattr(build_pages, "MODULES", {"Losses": "losses gone"})
    with pytest.raises(ValueError, match="Losses: there is no module jrouter.gone"):
        build_pages.subjects()


def test_docstrings_of_the_package_explain_what_is_there():
    wrong = []
    checked = 0
    for found in walk_packages(jrouter.__path__, "jrouter."):
        for name, what in defined_in(importlib.import_module(found.name)):
            wrong += docstrings.faults(name, what, public=False)
            checked += 1
    assert wrong == [] and checked > 1000


@dataclass(frozen=True)
class Explained:
    """A pair.

    Attributes:
      first: [n].
      third: not there.
    """

    first: float
    second: float = 0.0

    def total(self):
        return self.first + self.second


def misexplained(x, y, *, z=1.0):
    """What comes of x and y

    Args:
      x, w: [n].
    and a line that begins like none.
      z: a scalar,
        on two lines.
    """


def misindented(x):
    """Whole.

    Args:
      x: [n], of which there
      are many.
    """


def without(x):
    return x


@pytest.mark.parametrize(
    ("what", "public", "expected"),
    [
        (without, True, ["it: no docstring"]),
        (without, False, []),
        (
            misexplained,
            True,
            ["it: Args explains 'w', which it does not have", "it: Args leaves out 'y'", "it: Args leaves out 'z'"]
            + ["it: no sentence first, but 'What comes of x and y'"],
        ),
        (misindented, False, ["it: Args has a line that is not indented and begins with no name: 'are many.'"]),
        (
            Explained,
            True,
            ["it: Attributes explains 'third', which it does not have", "it: Attributes leaves out 'second'"]
            + ["it.total: no docstring"],
        ),
        (Explained, False, ["it: Attributes explains 'third', which it does not have"]),
    ],
)
def test_faults_of_docstrings_are_found(what, public, expected):
    assert list(docstrings.faults("it", what, public=public)) == expected


@pytest.mark.parametrize("module", [docstrings, markdown_pages, cross_links])
def test_examples(module):
    tried = doctest.testmod(module)
    assert tried.attempted > 0 and tried.failed == 0


def test_equations_are_told_from_sentences():
    sentence, leads_in = "Its minimiser is the assignment (see `f`).", "The mean is"
    text = f"Regret.\n\nsum_t p_t * (m - u_t)\n\n{sentence}\n\n{leads_in}\n\n    a / b\n\nArgs:\n  x: [n]\n\n>>> 1\n1"
    assert docstrings.as_markdown(text) == text.replace("sum_t p_t * (m - u_t)", "```\nsum_t p_t * (m - u_t)\n```")


@pytest.fixture
def repository(tmp_path):
    root = tmp_path / "repository"
    for path, content in {
        "README.md": "[Notes](notes/NOTES.md#a-b), [m](pack/m.py), [p](pack), [data](data.csv), [gone](gone.md)",
        "notes/NOTES.md": "![drawn](drawn.png) [back](../README.md), [out](https://example.org), [up](../../x)",
        "notes/drawn.png": "PNG",
        "pack/__init__.py": "",
        "pack/m.py": "",
        "data.csv": "",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)
    return root


def html_of(text):
    """Markdown's links and images alone, under one heading."""
    text = re.sub(r"!\[(.*?)\]\((.*?)\)", r'<img alt="\1" src="\2">', text)
    return "<h2>A, b</h2>" + re.sub(r"\[(.*?)\]\((.*?)\)", r'<a href="\2">\1</a>', text)


@pytest.mark.parametrize("source_url", [None, "https://host/blob/main/"])
def test_links_of_markdown_files(repository, tmp_path, source_url):
    site = tmp_path / "site"
    site.mkdir()
    names = {"README.md": "tour", "notes/NOTES.md": "notes"}
    pages = {
        path: markdown_pages.make_page(repository, path, f"{name}.html", name, html_of) for path, name in names.items()
    }
    assert pages["README.md"].contents == [("a-b", "A, b")]
    modules = markdown_pages.modules_by_path(repository, ["pack", "pack.m"])
    wrong = markdown_pages.linked(pages, modules, repository, site, source_url)
    assert wrong == [
        "README.md: a link to gone.md, which is not there",
        "notes/NOTES.md: a link to ../../x, which is not there",
    ]
    data = '<a href="https://host/blob/main/data.csv">data</a>' if source_url else "data"
    assert pages["README.md"].body.startswith(
        '<h2 id="a-b">A, b</h2><a href="notes.html#a-b">Notes</a>, <a href="pack/m.html">m</a>, '
        f'<a href="pack.html">p</a>, {data}, '
    )
    assert pages["notes/NOTES.md"].body.startswith(
        '<h2 id="a-b">A, b</h2><img alt="drawn" src="notes/drawn.png"> <a href="tour.html">back</a>, '
        '<a href="https://example.org">out</a>, '
    )
    assert (site / "notes/drawn.png").read_text() == "PNG"


def test_links_of_a_site_are_followed(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "a.html").write_text('<h2 id="x">X</h2><a href="in/b.html#y">b</a><a href="#x">x</a><a href="#q">q</a>')
    (tmp_path / "in/b.html").write_text(
        '<p id="y"><a href="../a.html#z">z</a><a href="c.html">c</a><a href="https://example.org">out</a></p>'
        '<img src="data:image/png;base64,"><script src="https://example.org/mathjax.js"></script>'
    )
    assert markdown_pages.dangling(tmp_path) == [
        "a.html: href #q leads nowhere",
        "in/b.html: href ../a.html#z leads nowhere",
        "in/b.html: href c.html leads nowhere",
        "in/b.html: src https://example.org/mathjax.js leads nowhere",
    ]


@pytest.fixture
def few(monkeypatch):
    """A site of two modules, and the public names that they define."""
    pytest.importorskip("pdoc.render", reason="the pages are made by pdoc: pip install -e '.[docs]'")
    monkeypatch.setattr(build_pages, "MODULES", {"Losses": "losses metrics"})
    defined = {what for module in (losses, metrics) for _, what in defined_in(module)}
    names = [name for name in jrouter.__all__ if name != "METHODS" and getattr(jrouter, name) in defined]
    monkeypatch.setattr(jrouter, "__all__", names)


def test_pages(few, tmp_path):
    assert build_pages.build(tmp_path, "https://host") == []
    page = (tmp_path / "jrouter/losses.html").read_text()
    assert re.search(r"<pre><code>sum_t softmax\(h / tau\)_t \* \(max_s u_s - u_t\)\s*</code></pre>", page)
    assert re.search(r"<li><strong>logits:</strong>\s+\[T\], h\(x\)\.</li>", page)
    assert "jaxlib" not in page
    start = (tmp_path / "jrouter.html").read_text()
    assert 'href="assumptions.html"' in start and 'href="jrouter/losses.html"' in start
    assumptions = (tmp_path / "assumptions.html").read_text()
    assert 'src="experiments/results/assumptions.png"' in assumptions
    assert (tmp_path / "experiments/results/assumptions.png").stat().st_size > 1000
    assert 'href="jrouter/losses.html"' in assumptions and 'href="#1-utility-is-not-affine"' in assumptions


def test_a_warning_of_pdoc_and_a_name_without_docstring_are_faults(few, tmp_path, monkeypatch):
    render = importlib.import_module("pdoc.render")
    monkeypatch.setattr(render, "html_index", lambda documents: warnings.warn("Error parsing 3", stacklevel=1) or "")
    monkeypatch.setattr(jrouter.softmax_regret, "__doc__", None)
    wrong = build_pages.build(tmp_path, None)
    assert "pdoc: Error parsing 3" in wrong and "jrouter.softmax_regret: no docstring" in wrong


def test_only_pages_without_faults_replace_pages(tmp_path, monkeypatch, capsys):
    def build(out, source_url):
        (out / "search.js").write_text(source_url or "")
        return wrong

    monkeypatch.setattr(build_pages, "build", build)
    site = tmp_path / "site"
    for source_url, found, code in (("one", [], 0), ("two", ["jrouter.f: no docstring"], 1)):
        wrong = found
        monkeypatch.setattr(sys, "argv", ["build_pages.py", "--out", str(site), "--source-url", source_url])
        assert build_pages.main() == code
        assert (site / "search.js").read_text() == "one"
    assert capsys.readouterr().err == "jrouter.f: no docstring\n1 faults: no pages are written\n"
    assert [file.name for file in tmp_path.iterdir()] == ["site"]


def test_a_folder_with_other_files_is_not_replaced(tmp_path, monkeypatch, capsys):
    (tmp_path / "thesis.tex").write_text("")
    monkeypatch.setattr(sys, "argv", ["build_pages.py", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        build_pages.main()
    assert "other files than pages" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]
