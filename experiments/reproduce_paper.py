"""The paper's whole comparison, on RouterBench or SPROUT as they are published, with BERT or Llama embeddings.

    python experiments/reproduce_paper.py                                         # RouterBench, BERT
    python experiments/reproduce_paper.py --benchmark sprout --encoder llama-3.2-1b
    python experiments/reproduce_paper.py --smoke                                 # no network, no files, under 1 minute
    python experiments/reproduce_paper.py --benchmark-path routerbench_0shot.pkl --encoder-path bert-base-uncased

Files come from the Hugging Face hub, or from --benchmark-path and --encoder-path where there is no network.
Llama's weights are gated: accept their licence and log in (`hf auth login`), or bring a folder. Each different
text is embedded once and kept in --cache; results are kept cell by cell, so that the same command goes on where
a killed one stopped. Not yet run on a whole benchmark: 480 fits on some 30,000 rows each want an accelerator. On a CPU
take a small encoder (any of the hub or of a folder, or hashing), few --methods and few --seeds.

Method x lambda x seed (of log and initialisation), after arXiv 2505.16037. What the paper leaves open is decided
so, and is an option where one is named:

- the log: one model per query, by accuracy-proportional sampling in two readings (--logging-policy):
  predicted_accuracy is ignorable given the embedding, realised_accuracy reads the answers and is not;
- lambdas 0, 100, ..., 1000 (--lambdas);
- Baseline and R&C in all their readings, as the claimed +10 to 15% rests on how they differ (--methods);
- rows: RouterBench by CARROT's protocol (no Chinese tasks, 80% logged, 20% judge); SPROUT by its own splits,
  train and validation logged, test judges. Queries on both sides are counted and stay;
- SPROUT's files hold tokens: costs are these times CARROT's prices (--prices). Lambda is score per USD;
- BERT is google-bert/bert-base-uncased, Llama is meta-llama/Llama-3.2-1B, not Instruct; mean pooling and last
  token (--pooling); texts longer than the encoder are cut at their end (--truncation, --max-length);
- prompts are encoded whole, solved examples included; --query last_question takes the question they end with. An
  encoder that reads fewer tokens than the examples have leaves few different embeddings, and warns of it;
- tuning, propensities and networks are this package's, not the authors'.

Methods marked * see every model's outcome, as no log has. Prints one table (means over lambdas, 95% intervals over
seeds and test queries) and what the authors claim beside what is found; writes
<out>/reproduce_paper_<benchmark>_<encoder>.json, .csv (a row per cell and lambda) and .png.

Expect the differences between learners to be small beside the choice of embedding and of logging, and
realised_accuracy to mislead every method that estimates propensities from the log.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from cells import Key, Study, current, select, values_of
from command_line import script
from data import RESULTS, cache_folder, logging_names, logging_rule, parse_lambdas
from known_methods import PARTS, chosen_methods
from learners import Learners, Setting, setting_from
from one_log import draw_log, lambdas_of
from paper_claims import pairs_of, print_claims
from published import ENCODERS, Embedded, embed, encoder_name, fewer, open_encoder, read_benchmark
from published_figure import draw
from published_samples import write_routerbench, write_sprout
from studies import StudyOptions, budget, finish, mean_difference, mean_utility, method_names, run_study

from jrouter.encoders.load import HASHING
from jrouter.io.results import text_table
from jrouter.methods import METHODS
from jrouter.types import Array

PAPER = tuple(
    name for name in chosen_methods("all") if name not in (*PARTS, "cheapest", "rm_auto")
)  # what the paper names, in every reading, and references
SMOKE = ("best_single", "baseline_shared", "regress_and_compare_ridge", "rm_softmax", "oracle")
REFERENCES = ("best_single", "baseline_shared")
SAMPLES = {"routerbench": write_routerbench, "sprout": write_sprout}
FULL_FEEDBACK = {"oracle", *(name for name in METHODS if METHODS[name]().full_feedback)}
"""Methods that see what no log holds."""


@dataclass(frozen=True)
class Options:
    """Which benchmark, which encoder, and which cells."""

    benchmark: Literal["routerbench", "sprout"] = "routerbench"
    """As published."""
    benchmark_path: tuple[Path, ...] = ()
    """RouterBench's file (routerbench_0shot.pkl, or saved as Parquet or CSV); SPROUT's folder or files. Default: from
    the hub."""
    benchmark_revision: str | None = None
    """Of the benchmark on the hub."""
    prices: Path | None = None
    """CSV file of SPROUT's prices (columns model, input_usd_per_1m, output_usd_per_1m); where it says nothing, those of
    the package."""
    incomplete: Literal["error", "drop"] = "error"
    """Whether a row that lacks a score, a cost or tokens is an error or left out."""
    encoder: str | None = None
    """bert, llama-3.2-1b, hashing, a folder or a name on the hub; default: bert, and hashing with --smoke."""
    encoder_path: Path | None = None
    """Folder of the encoder's files, where the hub is out of reach; --encoder is then its name in the results."""
    encoder_revision: str | None = None
    """Of the encoder on the hub."""
    pooling: str | None = None
    """mean, cls or last_token; default: what the encoder's files say, else last_token of Llama and mean of BERT."""
    max_length: int | None = None
    """Most tokens of a text; default: what the encoder's files say, else as many as it takes, at most 4,096."""
    truncation: Literal["right", "left"] = "right"
    """The end at which longer texts are cut."""
    query: Literal["whole", "last_question"] = "whole"
    """What is encoded of a few-shot prompt."""
    cache: Path | None = None
    """Folder of embeddings; default: jrouter/embeddings in the user's cache folder, and none with --smoke."""
    logging_policy: str = "predicted_accuracy,realised_accuracy"
    """Comma-separated, as of every experiment."""
    lambdas: str = "paper"
    """paper (0, 100, ..., 1000), auto (where this log's scores and costs trade) or a,b,..."""
    seeds: int = 10
    """Seeds 0..N-1 of logs and initialisations."""
    methods: str = ""
    """Comma-separated names, or all; default: the paper's, and references."""
    budget_minutes: float | None = None
    """Stop between cells once these have passed; run the same command again to go on."""
    fresh: bool = False
    """Forget the cells that an earlier run of this configuration has kept."""
    join: tuple[Path, ...] = ()
    """Result files of this script made elsewhere: their cells are taken over."""
    smoke: bool = False
    """400 rows, one logging policy, one seed, few methods; of small files made on the spot if none are given."""
    out: Path = RESULTS
    """Folder of the result files."""

    @property
    def as_study(self) -> StudyOptions:
        """The flags that every study has."""
        shared = ("logging_policy", "lambdas", "seeds", "methods", "budget_minutes", "fresh", "join", "smoke", "out")
        return StudyOptions(**{name: getattr(self, name) for name in shared})


def settled(options: Options) -> Options:
    """The options with their defaults filled in; a folder given by --encoder goes to --encoder-path.

    Raises:
      ValueError: for an unknown method or logging policy, no seed, bad lambdas or minutes, or no such folder.
    """
    encoder = options.encoder or (HASHING if options.smoke else "bert")
    if options.encoder_path is None and encoder not in ENCODERS and Path(encoder).expanduser().is_dir():
        folder = Path(encoder).expanduser().resolve()
        options = replace(options, encoder_path=folder)
        encoder = folder.name
    options = replace(options, encoder=encoder)
    if options.smoke:
        methods = options.methods or ",".join(SMOKE)
        options = replace(options, seeds=1, logging_policy=options.logging_policy.split(",")[0], methods=methods)
    else:
        options = replace(options, methods=options.methods or ",".join(PAPER), cache=options.cache or cache_folder())
    if options.seeds < 1:
        raise ValueError(f"--seeds: expected at least 1, got {options.seeds}")
    for check in (logging_names, budget, lambda shared: parse_lambdas(shared.lambdas)):
        check(options.as_study)
    if options.encoder_path is not None and not options.encoder_path.is_dir():
        raise ValueError(
            f"--encoder-path: {options.encoder_path} is no folder; give that of config.json, weights and tokenizer"
        )
    return replace(options, methods=",".join(method_names(options.methods, PAPER)))


def prepared(options: Options) -> Embedded:
    """The benchmark of the options, embedded.

    Raises:
      DataError, EncoderError: where a file, a model or the hub is not to be had, with what to do.
    """
    with TemporaryDirectory() as folder:
        paths = options.benchmark_path
        if options.smoke and not paths:
            paths = (SAMPLES[options.benchmark](Path(folder)),)
        benchmark = read_benchmark(
            options.benchmark,
            paths,
            revision=options.benchmark_revision,
            prices=options.prices,
            incomplete=options.incomplete,
        )
    encoder = open_encoder(
        str(options.encoder),
        path=options.encoder_path,
        revision=options.encoder_revision,
        pooling=options.pooling,
        max_length=options.max_length,
        truncation=options.truncation,
        question=options.query == "last_question",
    )
    name = None if options.encoder_path is None else options.encoder
    return embed(fewer(benchmark) if options.smoke else benchmark, encoder, options.cache, name=name)


def print_facts(facts: Mapping[str, Any]) -> None:
    """What was read and how it was encoded, in a few lines."""
    texts, encoder = facts["texts"], facts["encoder"]
    print("files: " + ", ".join(f"{name} (SHA-256 {digest[:12]}...)" for name, digest in facts["files"].items()))
    print(f"rows: {facts['protocol']}: {texts['logged']:,} and {texts['test']:,}, {len(facts['models'])} models")
    told = [f"{encoder['name']} ({encoder['architecture']}, {encoder['dim']} dimensions)"]
    told += [f"revision {encoder['revision']}"] if encoder["revision"] else []
    told += [f"{encoder['pooling']} pooling"] if encoder["pooling"] else []
    told += [f"at most {encoder['max_length']} tokens, cut {encoder['truncation']}"] if encoder["max_length"] else []
    print(f"encoder: {', '.join(told)}; of a few-shot prompt {'its question' if encoder['question'] else 'all'}")
    print(
        f"texts: {texts['distinct_queries']:,} different queries, {texts['distinct_texts_encoded']:,} different texts "
        f"encoded, {texts['distinct_embeddings']:,} different embeddings; {texts['test_also_logged']:,} test queries "
        "are logged too"
    )


def print_table(path: Path) -> None:
    """The table, from the result file alone: per logging policy a row per method, means over lambdas."""

    def utility(cells: list[dict[str, Any]]) -> str:
        estimate = mean_utility(cells)
        return f"{100 * estimate.mean:.1f}±{100 * estimate.half_width:.1f}"

    def average(cells: list[dict[str, Any]], metric: str) -> float:
        return sum(sum(cell[metric]) / len(cell[metric]) for cell in cells) / len(cells)

    def less(cells: list[dict[str, Any]], to: str) -> str:
        estimate = mean_difference(cells, to)
        if estimate is None:
            return ""
        return f"{100 * estimate.mean:+.1f} [{100 * estimate.low:+.1f}, {100 * estimate.high:+.1f}]"

    (group,) = current(path)
    references = [name for name in REFERENCES if name in values_of(group["cells"], "method")]
    for policy in values_of(group["cells"], "logging_policy"):
        here = select(group["cells"], logging_policy=policy)
        first = here[0]
        print(
            f"\n{group['table']}, {policy} logging, {first['n_train']:,} rows logged, {first['n_test']:,} judge, "
            f"{len(values_of(here, 'seed'))} seed(s); means over {len(first['lambdas'])} lambdas from "
            f"{first['lambdas'][0]:g} to {first['lambdas'][-1]:g}, x 100, with 95% intervals; * sees every outcome"
        )
        rows = []
        for method in values_of(here, "method"):
            cells = select(here, method=method)
            marked = method + (" *" if method in FULL_FEEDBACK else "")
            shares = [f"{100 * average(cells, metric):.1f}" for metric in ("regret", "routing_accuracy", "score")]
            row = [marked, utility(cells), *(less(cells, to) for to in references)]
            rows.append([*row, *shares, f"{1000 * average(cells, 'cost'):.3f}"])
        columns = ["utility", *(f"less {to}" for to in references), "regret", "routing accuracy", "score"]
        print(text_table(["method", *columns, "USD per 1,000"], rows))


def main(options: Options) -> None:
    """Embeds the benchmark, computes the missing cells, shows all."""
    options = settled(options)
    name = f"reproduce_paper_{options.benchmark}_{encoder_name(str(options.encoder))}"
    if options.smoke:
        name += "_smoke"
    shared = options.as_study
    source, facts = prepared(options)
    print_facts(facts)
    study = Study(
        options.out / f"{name}.json",
        options=options,
        configuration=facts | {"lambdas": options.lambdas, "smoke": options.smoke},
        digests={source.name: source.sha256},
        fresh=options.fresh,
        join=options.join,
    )
    n = source.draw(0).score.shape[0]
    methods = options.methods.split(",")
    keys: list[Key] = [
        {"table": source.name, "logging_policy": policy, "n": n, "seed": seed, "method": method}
        for policy in logging_names(shared)
        for seed in range(options.seeds)
        for method in methods
    ]

    @cache
    def lambdas(policy: str) -> Array:
        return lambdas_of(source, policy, shared)

    @lru_cache(maxsize=1)
    def setting(policy: str, seed: int) -> Setting:
        one = draw_log(source.draw(seed), source.test, logging_rule(policy, *source.confounded), seed)
        return setting_from(one, source.test, lambdas(policy), seed=seed, fast=options.smoke)

    def setting_of(key: Key) -> Setting:
        return setting(key["logging_policy"], key["seed"])

    def references(key: Key) -> dict[str, Key]:
        return {name: key | {"method": name} for name in REFERENCES if name in methods}

    learners = Learners(fast=options.smoke)
    run_study(study, keys, setting_of, references, learners, budget_minutes=options.budget_minutes)
    if finish(study, keys, draw):
        print_table(study.path)
        pairs = pairs_of(study.path)
        if options.seeds > 1 and pairs:
            print_claims(pairs)


if __name__ == "__main__":
    script(main, Options, __doc__)
