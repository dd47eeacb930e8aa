"""Kinds of flags that commands share, by the names that their help shows them with."""

from pathlib import Path
from typing import Annotated

import tyro

RouterFolder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="ROUTER")]
LogPlace = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="LOG")]
Folder = Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
Name = Annotated[str, tyro.conf.arg(metavar="NAME")]
# Of what may be left out, the help says in words what happens then.
MaybeFile = Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]
MaybeFolder = Annotated[Path | None, tyro.conf.arg(metavar="FOLDER", help_behavior_hint="")]
MaybePlace = Annotated[str | None, tyro.conf.arg(metavar="LOG", help_behavior_hint="")]
MaybeAddress = Annotated[str | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")]
MaybeName = Annotated[str | None, tyro.conf.arg(metavar="NAME", help_behavior_hint="")]
MaybeNames = Annotated[str | None, tyro.conf.arg(metavar="NAME,NAME", help_behavior_hint="")]
MaybeNumber = Annotated[float | None, tyro.conf.arg(metavar="NUMBER", help_behavior_hint="")]
MaybeNumbers = Annotated[str | None, tyro.conf.arg(metavar="NUMBER,NUMBER", help_behavior_hint="")]
MaybeInt = Annotated[int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="")]
