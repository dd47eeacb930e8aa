"""A folder that takes another's place, whatever the moment at which the process is killed."""

import ctypes
import os
import shutil
import sys
import tempfile
from pathlib import Path

AT_FDCWD, RENAME_EXCHANGE = -100, 2
"""Of Linux's renameat2."""


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
