"""pdoc's documents of jrouter and its modules, changed where pdoc shows what only Python, JAX or Flax needs."""

import importlib
from collections.abc import Iterator
from typing import Any

import pdoc.doc
from docstrings import as_markdown

NOT_OURS = ("Alias for field number", "Wraps parent module references")
"""How docstrings begin that named tuples and Flax give to every field."""


def documents_of(modules: list[str]) -> dict[str, Any]:
    """pdoc's documents by full name; equations are blocks of code, and a constant that `jrouter` imports is explained.

    Args:
      modules: full names.
    """
    documents = {name: pdoc.doc.Module(importlib.import_module(name)) for name in ("jrouter", *modules)}
    constants: dict[str, str] = {}
    for module in documents.values():
        for one in (module, *_within(module)):
            one.docstring = "" if one.docstring.startswith(NOT_OURS) else as_markdown(one.docstring)
            if one.kind == "variable" and one.docstring:
                constants[one.name] = one.docstring
            if isinstance(one, pdoc.doc.Function) and one.name == "__init__" and "flax." in str(one.signature):
                ours = [value for key, value in one.signature.parameters.items() if key not in {"parent", "name"}]
                one.signature = one.signature.replace(parameters=ours)
    for one in documents["jrouter"].members.values():
        if one.kind == "variable" and not one.docstring:
            one.docstring = constants.get(one.name, "")
    return documents


def _within(namespace: Any) -> Iterator[Any]:
    for one in namespace.members.values():
        if one.kind != "module":
            yield one
            if one.kind == "class":
                yield from _within(one)


def readable(page: str) -> str:
    """A page on which JAX 0.10's arrays have the name that users know, as they have with later versions."""
    coloured = '</span><span class="o">.</span><span class="n">'
    for dot in (".", coloured, coloured.replace('"', '\\"')):
        page = page.replace(dot.join(["jax", "jaxlib", "_jax", "Array"]), f"jax{dot}Array")
    return page
