"""The command line: `jrouter COMMAND --help` explains each. A thin layer over functions of the same names."""

import contextlib
import errno
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from jrouter.app.calibrate import Calibrate
from jrouter.app.diagnose import Diagnose
from jrouter.app.evaluate import Evaluate
from jrouter.app.export import Export
from jrouter.app.fit import Fit
from jrouter.app.plan import Plan
from jrouter.app.pool import Pool
from jrouter.app.route import Route

TRACEBACK = "JROUTER_TRACEBACK"
"""Set in the environment, errors come with where they arose."""
ABOUT = """From a log of one LLM a query to a router.

  jrouter diagnose gateway.parquet --html report.html    may it be trusted?
  jrouter fit gateway.parquet --out my_router            learn a router, say what it is worth
  jrouter route my_router --lambda 300 < queries.jsonl   which model to call"""

Command = (
    Annotated[Diagnose, tyro.conf.subcommand("diagnose")]
    | Annotated[Fit, tyro.conf.subcommand("fit")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Route, tyro.conf.subcommand("route")]
    | Annotated[Calibrate, tyro.conf.subcommand("calibrate")]
    | Annotated[Plan, tyro.conf.subcommand("plan")]
    | Annotated[Pool, tyro.conf.subcommand("pool")]
    | Annotated[Export, tyro.conf.subcommand("export")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
      arguments: after the program's name; None for those of the process.

    Returns:
      The exit code: 0, 1 where nothing was done that was asked, 2 for what is wrong with arguments or files, 3 where
      the answer is no (a log that is refused, a budget that nothing meets), 70 for a fault of jrouter's own, 130 when
      interrupted.
    """
    command = tyro.cli(
        Command,  # pyright: ignore[reportArgumentType]
        prog="jrouter",
        description=ABOUT,
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    try:
        return command.run()
    except KeyboardInterrupt:
        print("\njrouter: interrupted; nothing was half-written", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head` has seen enough
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as problem:
        if os.environ.get(TRACEBACK):
            raise
        code, said = _told(problem)
        print(f"jrouter: {said}", file=sys.stderr)
        return code


def _told(problem: Exception) -> tuple[int, str]:
    """The exit code of what went wrong, and what to say of it."""
    if isinstance(problem, ValueError):  # DataError, CheckpointError and EncoderError are ValueErrors
        return 2, str(problem)
    if isinstance(problem, OSError):
        named = problem.filename if problem.filename2 is None else problem.filename2
        where = "" if named is None else f"{named}: "
        if problem.errno in (errno.ENOSPC, errno.EDQUOT):
            return 2, f"{where}the disk is full; make room, or write elsewhere. What was there before is as it was"
        return 2, f"{where}{problem.strerror or problem}"
    return 70, f"a fault of jrouter's own ({type(problem).__name__}: {problem}); {TRACEBACK}=1 shows where: report it"


if __name__ == "__main__":
    sys.exit(main())
