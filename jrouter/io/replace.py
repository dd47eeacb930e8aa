"""Files and folders that take the place of others whole or not at all, whatever the moment a process is killed at."""

import ctypes
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

AT_FDCWD, RENAME_EXCHANGE = -100, 2
"""Of Linux's renameat2."""


def replace_bytes(path: Path, content: bytes) -> None:
    """Writes bytes as `replace_whole` writes text."""
    replace_whole(path, lambda file: file.write(content), binary=True)


def replace_whole(path: Path, write: Callable[[Any], Any], *, binary: bool = False) -> None:
    """Writes beside `path`, flushes to the disk, then renames: a run that dies leaves the old file whole.

    Args:
      path: of the file; its folder is made where needed.
      write: given the open file, writes it.
      binary: bytes instead of text in UTF-8.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") if binary else os.fdopen(handle, "w", newline="", encoding="utf-8") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    if not hasattr(os, "O_DIRECTORY"):  # Windows opens no folders
        return
    # The name, too, is to outlive a machine that stops.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def take_place(new: Path, folder: Path) -> None:
    """Renames a whole folder into its place; what was there disappears after that.

    On Linux the two change names at once. Where a system or its disk cannot do that, the old folder is moved aside
    first and back if the new one cannot arrive; killed between these two, it is in `.<name>.old.*` beside its place.

    Args:
      new: folder beside its place, on the same disk.
      folder: its place, free or not.
    """
    if not folder.exists():
        new.rename(folder)
        return
    if not folder.is_symlink() and exchange(new, folder):
        shutil.rmtree(new)  # the old one by now
        return
    old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.old."))
    folder.rename(old / folder.name)
    try:
        new.rename(folder)
    except BaseException:
        (old / folder.name).rename(folder)
        old.rmdir()
        raise
    shutil.rmtree(old)


def exchange(one: Path, other: Path) -> bool:
    """Whether two folders changed names, at once; if not, nothing happened."""
    if not sys.platform.startswith("linux"):
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # glibc from 2.28 on, musl from 1.2.5 on
    return rename is not None and rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0
