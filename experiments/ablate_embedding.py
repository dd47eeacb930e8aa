"""How good must the embedding be? Another encoder, fewer dimensions, noise.

    python experiments/ablate_embedding.py                        # synthetic, about 35 minutes on 2 cores
    python experiments/ablate_embedding.py --smoke                # under 1 minute
    python experiments/ablate_embedding.py --table table.parquet --embedding NAME --name embeddings_of_my_table

Logs are simulated once, with the embedding as given (--embedding); learners then see another one:

- another of the table's `embedding:<encoder>` columns, where it has several;
- its leading principal components, 8 to 384 of them, fitted on logged queries only;
- with normal noise in every coordinate, in units of the coordinates' standard deviation, on logged and on
  test queries.

Nuisances are estimated from what the learner sees. Where that is less than the logging policy saw, the log
is no longer ignorable given it: part of the loss is bias that no estimator here can repair.

Judged on queries never logged, by every model's outcome. Prints mean test utility x 100 and paired
differences, with 95% intervals; writes <name>.json (kept cell by cell: a later run resumes), .csv and
.png.

Expect the synthetic benchmarks, whose signal has rank 24, to lose nothing down to 32 dimensions.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.csv
import pyarrow.parquet
from cells import Key
from command_line import script
from data import Source, logging_rule, sources
from learners import Setting, setting_from
from one_log import OneLog, draw_log, key_of
from studies import StudyOptions, method_names, smaller
from study_figures import embedding_figure
from variants import Variants, study_variants

from jrouter.types import Array

METHODS = ("best_single", "regress_and_compare_pooled", "rm_auto")
REFERENCES = ("best_single", "regress_and_compare_pooled")
AS_GIVEN = "as given"
COMPONENTS = (8, 16, 32, 64, 128, 256, 384)
NOISES = (0.25, 0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Options(StudyOptions):
    """As every study's."""

    name: str = "ablate_embedding"
    """Of the result files."""


class Embedded(NamedTuple):
    """Embeddings of logged and of test queries: [n, d] and [n_test, d]."""

    logged: Array
    test: Array


def components(given: Embedded, size: int) -> Embedded:
    """The leading principal components of the logged embeddings, of both.

    >>> components(Embedded(jnp.array([[0., 3.], [0., -3.], [1., 0.], [-1., 0.]]), jnp.array([[5., 2.]])), 1).test
    Array([[2.]], dtype=float32)
    """
    logged = np.asarray(given.logged, np.float64)
    centre = logged.mean(axis=0)
    _, axes = np.linalg.eigh((logged - centre).T @ (logged - centre))
    leading = axes[:, ::-1][:, :size]
    # The sign of a component is arbitrary: its largest entry is made positive.
    leading = leading * np.sign(leading[np.abs(leading).argmax(axis=0), np.arange(leading.shape[1])])
    return Embedded(*[jnp.asarray((np.asarray(x, np.float64) - centre) @ leading, jnp.float32) for x in given])


def noisy(given: Embedded, size: float, key: Array) -> Embedded:
    """Normal noise in every coordinate, `size` times the root mean square deviation of coordinates."""
    unit = size * jnp.sqrt(given.logged.var(axis=0).mean())
    keys = jax.random.split(key)
    return Embedded(*[x + unit * jax.random.normal(k, x.shape) for k, x in zip(keys, given, strict=True)])


def encoders(path: Path) -> list[str]:
    """Names of a table's embedding columns."""
    if path.name.endswith((".parquet", ".pq")):
        names = pyarrow.parquet.read_schema(path).names
    else:
        with pyarrow.csv.open_csv(path) as reader:
            names = reader.schema.names
    return [name for name in names if name.startswith("embedding:")]


def variants_of(options: Options, source: Source) -> tuple[list[str], dict[str, Source]]:
    """Names of the variants, and the sources that hold a table's other embeddings."""
    assert source.test.x is not None
    width = source.test.x.shape[1]
    sizes, noises = [size for size in COMPONENTS if size < width], list(NOISES)
    if options.smoke:
        sizes, noises = sizes[:1], noises[2:3]
    others = {}
    if options.table is not None and options.embedding is not None:
        own = "embedding:" + options.embedding.removeprefix("embedding:")
        others = {name: sources(replace(options, embedding=name))[0] for name in encoders(options.table) if name != own}
    return [AS_GIVEN, *others, *[f"pca {k}" for k in sizes], *[f"noise {size:g}" for size in noises]], others


def main(options: Options) -> None:
    """Runs the study and writes its files."""
    options = smaller(options)
    methods = method_names(options.methods, METHODS)
    found = {source.name: source for source in sources(options)}
    names_and_others = {name: variants_of(options, source) for name, source in found.items()}

    def embedded(source: Source, one: OneLog, seed: int, variant: str) -> Embedded:
        assert source.test.x is not None
        given = Embedded(one.log.x, jnp.asarray(source.test.x))
        kind, _, size = variant.partition(" ")
        if kind == "pca":
            return components(given, int(size))
        if kind == "noise":
            return noisy(given, float(size), key_of(seed, "noise in embeddings"))
        if variant == AS_GIVEN:
            return given
        other = names_and_others[source.name][1][variant]
        of_logged, of_test = other.draw(seed).x, other.test.x
        assert of_logged is not None and of_test is not None
        return Embedded(of_logged[one.rows], jnp.asarray(of_test))

    def setting(source: Source, policy: str, seed: int, variant: str, lambdas: Array) -> Setting:
        one = draw_log(source.draw(seed), source.test, logging_rule(policy, *source.confounded), seed)
        x = embedded(source, one, seed, variant)
        seen = one._replace(log=replace(one.log, x=x.logged))
        return setting_from(seen, replace(source.test, x=x.test), lambdas, seed=seed, fast=options.smoke)

    def references(key: Key) -> dict[str, Key]:
        return {AS_GIVEN: key | {"variant": AS_GIVEN}} | {
            name: key | {"method": name} for name in REFERENCES if name in methods
        }

    names = {table: names for table, (names, _) in names_and_others.items()}
    variants = Variants(names, setting, references, [AS_GIVEN, "best_single"], embedding_figure)
    study_variants(options, methods, found, variants)


if __name__ == "__main__":
    script(main, Options, __doc__)
