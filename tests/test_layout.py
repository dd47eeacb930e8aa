"""Which files may import which: three floors, no circle, and little to load before anything is asked for."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
HOUSE = ROOT / "jrouter"
UPSTAIRS = {"__init__", "app", "router", "router_inputs", "router_manifest", "router_pool", "learn", "large_logs"}
UPSTAIRS |= {"compiled_texts", "compiled_decisions"}
"""The second floor: what people touch, and what that is made of where it reads files or texts."""
EDGE = {"io", "encoders"}
"""The first floor: files and texts. All else is the ground floor: arrays in, arrays out."""
HEAVY = {"torch", "transformers", "tyro", "matplotlib", "pandas", "sklearn", "xgboost", "litellm", "huggingface_hub"}


def file_of(name):
    """The file of a module of this repository, or None."""
    place = ROOT / name.replace(".", "/")
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)


def imported(path):
    """Names of the modules that a file imports, at its head or inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{path}, line {node.lineno}: import it by its whole name"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if file_of(name) else node.module for name in whole)


NAMES = {path: set(imported(path)) for path in HOUSE.rglob("*.py")}
HELD = {path: {file for name in names if (file := file_of(name))} for path, names in NAMES.items()}


def floor(path):
    room = path.relative_to(HOUSE).parts[0].removesuffix(".py")
    return 2 if room in UPSTAIRS else 1 if room in EDGE else 0


def test_imports_go_down():
    assert {path.relative_to(HOUSE).parts[0].removesuffix(".py") for path in HELD} > UPSTAIRS | EDGE
    up = [
        f"{path.relative_to(ROOT)} imports {other.relative_to(ROOT)}"
        for path, others in HELD.items()
        for other in others
        if not other.is_relative_to(HOUSE) or floor(other) > floor(path)
    ]
    assert not up, "\n".join(up)


def test_the_package_needs_no_script():
    scripts = {path.stem for folder in ("experiments", "benchmarks", "tests") for path in (ROOT / folder).glob("*")}
    tops = {name.split(".")[0] for names in NAMES.values() for name in names}
    assert {"jax", "jrouter"} < tops and not tops & (scripts | {"experiments", "benchmarks", "tests"})


def test_no_circle():
    rest = dict(HELD)
    while rest:
        free = [path for path, others in rest.items() if not others & rest.keys()]
        assert free, "in a circle, or above one: " + ", ".join(sorted(str(path.relative_to(HOUSE)) for path in rest))
        for path in free:
            del rest[path]


def test_importing_the_package_loads_nothing_heavy_and_asks_no_network():
    code = f"""
import socket, sys

def refused(*given, **named):
    raise AssertionError("the network is asked")

socket.socket.connect = socket.getaddrinfo = refused
import jrouter
print(sorted({HEAVY} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stdout + done.stderr
