"""Most of the time of these tests is compilation, and nothing that they compile runs for long."""

import os
from pathlib import Path

import pytest
from filelock import FileLock

MAPPED = Path("/proc/self/maps")

# Before JAX is imported, and for the processes that tests start. `JAX_DISABLE_MOST_OPTIMIZATIONS=0 pytest` tests what
# users run.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")


@pytest.fixture(scope="module", autouse=True)
def programs_let_go():
    """Compiled programs go before they are too many: Linux lets a process map 65,530 pieces of memory."""
    yield
    if MAPPED.exists() and MAPPED.read_bytes().count(b"\n") > 30_000:
        import jax

        jax.clear_caches()


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """Folder of the programs that commands compile."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="session")
def shop(tmp_path_factory, compiled):
    """A team's folder, its log fitted: once for all files and all of xdist's processes, since that takes a while."""
    from small_cli import little_to_compile, make_shop

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with FileLock(folder / "shop.lock"), little_to_compile(compiled):
        return make_shop(folder / "shop")


@pytest.fixture(scope="session")
def router(shop):
    """The router of `shop`."""
    from jrouter.router import Router

    return Router.load(shop.router)
