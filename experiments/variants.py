"""Studies of variants: one thing about a log is changed at a time, and the same learners are fitted again."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from cells import Key, Study
from data import Source, logging_names
from learners import Learners, Setting
from one_log import lambdas_of
from studies import budget, configuration, finish, print_groups, run_study

from jrouter.types import Array


class Variants(NamedTuple):
    """What is varied, and what a variant is compared with.

    Attributes:
      names: table -> names of its variants.
      setting: (source, logging policy, seed, variant, lambdas) -> what the learners see.
      references: key -> {name: key of what it is compared with}.
      shown: names of references to which differences are printed.
      draw: (result file, picture).
    """

    names: Mapping[str, Sequence[str]]
    setting: Callable[[Source, str, int, str, Array], Setting]
    references: Callable[[Key], Mapping[str, Key]]
    shown: Sequence[str]
    draw: Callable[[Path, Path], None]


def study_variants(options: Any, methods: Sequence[str], found: Mapping[str, Source], variants: Variants) -> None:
    """Computes the missing cells of table x logging policy x seed x variant x method, and shows all.

    Args:
      options: of the script, `StudyOptions` with a name.
      methods: names.
      found: table -> source.
      variants: of each table.
    """
    policies, minutes = logging_names(options), budget(options)
    study = Study(
        options.out / f"{options.name}.json",
        options=options,
        configuration=configuration(options, list(found.values()), n=options.n if options.table is None else None),
        digests={name: source.sha256 for name, source in found.items()},
        fresh=options.fresh,
        join=options.join,
    )
    keys: list[Key] = [
        {"table": table, "logging_policy": policy, "seed": seed, "variant": variant, "method": method}
        for table in found
        for policy in policies
        for seed in range(options.seeds)
        for variant in variants.names[table]
        for method in methods
    ]

    @cache
    def lambdas(table: str, policy: str) -> Array:
        return lambdas_of(found[table], policy, options)

    @lru_cache(maxsize=2)
    def setting(table: str, policy: str, seed: int, variant: str) -> Setting:
        return variants.setting(found[table], policy, seed, variant, lambdas(table, policy))

    def setting_of(key: Key) -> Setting:
        return setting(key["table"], key["logging_policy"], key["seed"], key["variant"])

    learners = Learners(fast=options.smoke)
    run_study(study, keys, setting_of, variants.references, learners, budget_minutes=minutes)
    if finish(study, keys, variants.draw):
        print_groups(study.path, row="variant", to=variants.shown)
