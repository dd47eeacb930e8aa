"""Where a log's files are: on this machine, or behind an address such as s3://bucket/folder, through pyarrow."""

import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa
from pyarrow import fs

from jrouter.io.errors import describe, listed, sentence

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+://")


class DataFile(NamedTuple):
    """A file of a log.

    Attributes:
      filesystem: what opens it.
      path: where `filesystem` finds it.
      name: its name; within a folder that was given, the path from there. What reports show.
      place: path or address as it was given, without credentials. What errors show.
      size: bytes.
    """

    filesystem: fs.FileSystem
    path: str
    name: str
    place: str
    size: int

    def ends_with(self, suffixes: Sequence[str]) -> bool:
        """Whether its name ends in one of `suffixes`, in whatever case."""
        return self.path.lower().endswith(tuple(suffixes))


def is_address(path: str | os.PathLike) -> bool:
    """Whether a path is an address (s3://, gs://, file://).

    >>> is_address("s3://bucket/logs"), is_address("logs/june.parquet")
    (True, False)
    """
    return ADDRESS.match(os.fspath(path)) is not None


def without_secrets(address: str) -> str:
    """Returns an address without the user and the options in it, which may hold keys.

    >>> without_secrets("s3://KEY:SECRET@bucket/logs?region=eu-west-1")
    's3://bucket/logs'
    """
    if not is_address(address):
        return address
    return re.sub(r"://[^/@]*@", "://", address).split("?")[0]


def locate(path: str | os.PathLike) -> tuple[fs.FileSystem, str]:
    """Returns the filesystem of a path or address, and the path within it.

    Credentials come from where pyarrow looks for them (environment, instance, files of the cloud's own tools).

    Raises:
      DataError: an address that pyarrow does not understand.
    """
    name = os.fspath(path)
    if not is_address(name):
        return fs.LocalFileSystem(), os.path.abspath(name)
    try:
        return fs.FileSystem.from_uri(name)
    except (pa.ArrowException, OSError, ValueError) as problem:
        told = f"is no address that can be read: {sentence(problem)}; give a path, or s3://, gs:// or file://"
        raise describe(without_secrets(name), told) from None


def find_files(path: str | os.PathLike, suffixes: Sequence[str]) -> tuple[list[DataFile], list[str]]:
    """Finds the files of a log: the file itself, or those in a folder and the folders in it, by name.

    Args:
      path: path or address of a file or folder. Within a folder, files and folders whose names start with a dot or
        an underscore are no part of it.
      suffixes: those that can be read.

    Returns:
      The files; and names of those in a folder that have other suffixes.

    Raises:
      DataError: nothing there, an empty file, another suffix, a folder without such files, a place out of reach.
    """
    place = without_secrets(os.fspath(path)).rstrip("/") or "/"
    filesystem, root = locate(path)
    try:
        info = filesystem.get_file_info(root)
        below = []
        if info.type == fs.FileType.Directory:
            below = filesystem.get_file_info(fs.FileSelector(root, recursive=True))
    except (pa.ArrowException, OSError) as problem:
        told = f"cannot be reached: {sentence(problem)}; check the address, the network and your credentials"
        raise describe(place, told) from None
    if info.type == fs.FileType.NotFound:
        raise describe(place, "does not exist; check the path")
    if info.type != fs.FileType.Directory:
        file = DataFile(filesystem, root, os.path.basename(root), place, info.size or 0)
        if not file.ends_with(suffixes):
            raise describe(place, f"has an unknown suffix, expected one of {', '.join(suffixes)}")
        if not file.size:
            raise describe(place, "is empty (0 bytes), expected rows")
        return [file], []
    found: list[DataFile] = []
    other: list[str] = []
    for entry in sorted(below, key=lambda entry: entry.path):
        name = entry.path[len(root.rstrip("/")) :].lstrip("/") if entry.path.startswith(root) else entry.base_name
        if entry.type != fs.FileType.File or any(part.startswith((".", "_")) for part in name.split("/")):
            continue
        file = DataFile(filesystem, entry.path, name, f"{place}/{name}", entry.size or 0)
        if file.ends_with(suffixes) and file.size:
            found.append(file)
        else:
            other.append(name)
    if not found:
        there = f"; there are {listed(other[:5])}" if other else ""
        raise describe(place, f"is a folder without files that end in {', '.join(suffixes)}{there}")
    return found, other
