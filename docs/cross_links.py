"""Names in backticks as links: docstrings and pages say `weighted.weighted_mean`, without the package's name."""

import re
from collections.abc import Iterator
from typing import Any

import jrouter


def targets(documents: dict[str, Any]) -> dict[str, str]:
    """Addresses from the site's root, by what text calls them.

    Modules and what they define, from the package on, or from the module's last name on where that is of one module
    alone; public names by themselves, but those of one plain word (`utility`), which mostly name an argument.

    Args:
      documents: pdoc's modules by full name.
    """
    found: dict[str, str] = {}
    for module, document in documents.items():
        if module == "jrouter":
            continue
        page, last = f"{module.replace('.', '/')}.html", module.rsplit(".")[-1]
        alone = sum(other.rsplit(".")[-1] == last for other in documents) == 1
        calls = {module.removeprefix("jrouter.")} | ({last} if alone else set())
        found |= {call: page for call in (*calls, module) if "_" in call or "." in call}
        for name, anchor in _names(document):
            found |= {f"{call}.{name}": f"{page}#{anchor}" for call in (*calls, module)}
            public = name.split(".")[0]
            if document.obj.__dict__.get(public) is vars(jrouter).get(public) and public in jrouter.__all__:
                found[f"jrouter.{name}"] = f"{page}#{anchor}"
                if not name.islower() or "_" in name:
                    found[name] = f"{page}#{anchor}"
    return found


def _names(document: Any) -> Iterator[tuple[str, str]]:
    """Qualified names of what a module defines, with their anchors: of a field, which has none, its class's."""
    for one in document.own_members:
        if one.kind != "module" and not one.name.startswith("_"):
            yield one.qualname, one.qualname
            for part in one.own_members if one.kind == "class" else ():
                if not part.name.startswith("_"):
                    shown = part.kind != "variable" or part.docstring
                    yield part.qualname, part.qualname if shown else one.qualname


def linked_names(page: str, found: dict[str, str], depth: int = 0) -> str:
    """HTML in which names in backticks that have a page lead there.

    Args:
      page: HTML.
      found: as `targets` gives it.
      depth: how many folders below the site's root it is read from.

    >>> linked_names("<code>losses.f()</code>", {"losses.f": "jrouter/losses.html#f"})
    '<a href="jrouter/losses.html#f"><code>losses.f()</code></a>'
    """

    def link(match: re.Match[str]) -> str:
        address = found.get(match[1])
        return match[0] if address is None else f'<a href="{"../" * depth}{address}">{match[0]}</a>'

    parts = re.split(r"(<a\b.*?</a>|<h[1-6]\b.*?</h[1-6]>|<pre\b.*?</pre>)", page, flags=re.DOTALL)
    return "".join(
        part if number % 2 else re.sub(r"<code>([A-Za-z_][\w.]*)(?:\(\))?</code>", link, part)
        for number, part in enumerate(parts)
    )
