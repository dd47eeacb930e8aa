"""Docstrings: which of their paragraphs are equations, and where they and a signature disagree."""

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

SECTION = re.compile(r"^[A-Z][A-Za-z ]*:\n")


def as_markdown(docstring: str) -> str:
    """A docstring whose equations and tables are blocks of code.

    In the source they stand at the margin, a paragraph of their own, and no sentence: nothing ends them. A paragraph
    that leads into an indented block is a sentence that the block ends.

    >>> print(as_markdown("Utility.\\n\\nu = s - lam * c"))
    Utility.
    <BLANKLINE>
    ```
    u = s - lam * c
    ```
    """
    paragraphs = re.split(r"\n\s*\n", docstring)
    after = [*paragraphs[1:], ""]
    marked = [
        f"```\n{paragraph}\n```" if number and is_equation(paragraph) and not following.startswith(" ") else paragraph
        for number, (paragraph, following) in enumerate(zip(paragraphs, after, strict=True))
    ]
    return "\n\n".join(marked)


def is_equation(paragraph: str) -> bool:
    """Whether a paragraph is neither indented, nor a section, nor an example, nor ended as a sentence is."""
    other = paragraph.startswith((" ", ">>>", "- ")) or SECTION.match(paragraph)
    return not other and paragraph.rstrip().rstrip("`)\"'")[-1:] not in {".", ":", "!", "?", ""}


def explained(docstring: str, section: str) -> tuple[list[str], list[str]]:
    """Names that a section (Args, Attributes) explains, of `a, b: text` both; and its lines at the margin without one.

    >>> explained("Cost.\\n\\nArgs:\\n  rows, models: n\\n    and T.\\n  USD a token", "Args")
    (['rows', 'models'], ['USD a token'])
    """
    found = re.search(rf"^{section}:\n((?:[ \t]+.*\n|\n)+)", docstring + "\n", re.MULTILINE)
    lines = textwrap.dedent(found[1]).splitlines() if found else []
    names, others = [], []
    for line in lines:
        head = re.match(r"(\*{0,2}\w+(?:, \*{0,2}\w+)*)(?::| and$)", line)
        if head:
            names += [name.lstrip("*") for name in head[1].split(", ")]
        elif line and not line.startswith(" "):
            others.append(line)
    return names, others


def faults(name: str, what: Any, *, public: bool) -> Iterator[str]:
    """What is wrong with the docstring of a function, or of a class and its methods: a line each.

    Args:
      name: what the lines call it.
      what: a function or a class.
      public: whether users call it by its name: then it has a docstring, and its Args or Attributes, where it has
        any, leave out nothing.
    """
    if inspect.isclass(what):
        fields = _fields(what)
        docstring = vars(what).get("__doc__") or ""
        if fields:  # of other classes, what __init__ sets is not known
            yield from _section_faults(name, docstring, "Attributes", [*fields, *dir(what)], fields, public)
        for key, method in vars(what).items():
            method = getattr(method, "__func__", getattr(method, "fget", method))
            written = inspect.isfunction(method) and key not in fields and method.__module__ == what.__module__
            if written and not key.startswith("_") and (public or method.__doc__):
                yield from faults(f"{name}.{key}", method, public=public)
    else:
        docstring = what.__doc__ or ""
        parameters = [one for one in inspect.signature(what).parameters if one not in {"self", "cls"}]
        yield from _section_faults(name, docstring, "Args", parameters, parameters, public)
    if not docstring:
        if public:
            yield f"{name}: no docstring"
        return
    first = re.split(r"\n\s*\n", inspect.cleandoc(docstring))[0]
    if not re.search(r"[.:?!][\"')`]*(\s|$)", first):
        yield f"{name}: no sentence first, but {first.splitlines()[0]!r}"


def _fields(what: type) -> list[str]:
    """Fields of a dataclass or named tuple; of another class none."""
    if dataclasses.is_dataclass(what):
        return [field.name for field in dataclasses.fields(what) if field.init]
    return list(getattr(what, "_fields", ()))


def _section_faults(
    name: str, docstring: str, section: str, known: list[str], all_of: list[str], public: bool
) -> Iterator[str]:
    """Names that a section explains and that are not `known`, lines without a name, and what it leaves out."""
    names, others = explained(inspect.cleandoc(docstring), section)
    for line in others:
        yield f"{name}: {section} has a line that is not indented and begins with no name: {line!r}"
    for one in names:
        if one not in known:
            yield f"{name}: {section} explains {one!r}, which it does not have"
    if public and names:
        for one in all_of:
            if one not in names and not one.startswith("_"):
                yield f"{name}: {section} leaves out {one!r}"
