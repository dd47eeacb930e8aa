"""Tables of benchmarks, from their result files alone; `experiments/readme_tables.py` writes them into pages."""

import json
from statistics import mean, median
from typing import Any

from cells import Estimate, over_seeds
from measure import RESULTS

SWEEPS = ("sweep_22", "sweep_220")
_TAKEN = ("fit_seconds", "cpu_seconds", "peak_bytes")


def load(name: str, part: str = "results") -> Any:
    """Results of one committed file, or its configuration."""
    return json.loads((RESULTS / f"{name}.json").read_text())[part]


def sweep_table(name: str) -> str:
    """Seconds, share of the matrix rate, times PyTorch's loop, and test utility, of each contestant."""
    results = load(name)
    loop = results["contestants"]["torch_loop"]
    lines = [
        f"| contestant | {results['routers']} routers: s | of the matrix rate | x `torch_loop` | utility |",
        "|---|---:|---:|---:|---:|",
    ]
    for contestant, one in results["contestants"].items():
        lines.append(
            f"| `{contestant}` | {one['median_seconds']:.1f} | {one['share_of_matrix_rate']:.2f} | "
            f"{loop['median_seconds'] / one['median_seconds']:.2f} | {100 * one['test_utility']:.2f} |"
        )
    lines.append(
        f"| floor: the same operations as one large float32 product | {results['floor_seconds']:.1f} | 1.00 | |  |"
    )
    return "\n".join(lines)


def utility_table() -> str:
    """Whole runs to equal test utility, nuisances included."""
    lines = [
        "| run | routers | s | x less than separate runs | x less than a loop with shared nuisances | utility |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for file in SWEEPS:
        results = load(file)
        runs = results["to_equal_utility"]
        loop = runs["torch_loop"]
        for name, key in (("separate runs", "separate_runs"), ("nuisances shared", "shared_nuisances")):
            lines.append(
                f"| `torch_loop`, {name} | {results['routers']} | {loop[key]:.0f} | | | "
                f"{100 * loop['test_utility']:.2f} |"
            )
        for name, one in runs.items():
            if name != "torch_loop":
                lines.append(
                    f"| `{name}` | {results['routers']} | {one['seconds']:.0f} | "
                    f"{one['times_faster_than_separate_runs']:.1f} | {one['times_faster_than_shared_nuisances']:.1f} | "
                    f"{100 * one['test_utility']:.2f} |"
                )
    return "\n".join(lines)


def inference_table() -> str:
    """A large batch: milliseconds, and the share of decisions that are float32's."""
    results, config = load("inference")["large_batch"], load("inference", "config")
    lines = [
        f"| {config['rows']:,} x {config['dim']:,}, all at once "
        "| ms | floor, ms | GFLOP/s | decisions as `jax_float32` |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, one in results["contestants"].items():
        lines.append(
            f"| `{name}` | {1e3 * one['median_seconds']:.0f} | {1e3 * one['floor_seconds']:.0f} | "
            f"{one['operations_per_second'] / 1e9:.0f} | {100 * one['equal_decisions']:.2f}% |"
        )
    return "\n".join(lines)


def single_query_table() -> str:
    """One query through `Router.route`, beside its network in NumPy."""
    lines = [
        "| one query, `Router.route` | d | p50, us | p99, us | NumPy p50, us | p50 as a multiple of NumPy's |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, rows in load("inference")["single_query"].items():
        for one in rows:
            ours, numpy = one["microseconds"]["route"], one["microseconds"]["numpy"]
            lines.append(
                f"| {name.replace('_', ' ')} | {one['dim']:,} | {ours['p50']:.0f} | {ours['p99']:.0f} | "
                f"{numpy['p50']:.0f} | {one['ratio_to_numpy']['p50']:.2f} |"
            )
    return "\n".join(lines)


def off_policy_table() -> str:
    """Seconds of seven estimators with bootstrap, and how far values are from ours."""
    results = load("off_policy")
    lines = ["| contestant | s | x ours | largest difference of a value |", "|---|---:|---:|---:|"]
    for name, one in results["contestants"].items():
        difference = results["largest_value_difference"].get(name)
        shown = "" if difference is None else f"{difference:.0e}"
        lines.append(f"| `{name}` | {one['median_seconds']:.2f} | {one['times_jrouter']:.1f} | {shown} |")
    return "\n".join(lines)


def scaling_table() -> str:
    """Seconds and peak memory of one streamed epoch at each end of an axis, and growth over its last decade."""
    results = load("scaling")
    lines = [
        "| axis | size | s | growth | peak memory, GB |",
        "|---|---|---:|---:|---:|",
    ]
    for axis, growth in results["growth"].items():
        cells = sorted((one for one in results["cells"] if one["axis"] == axis), key=lambda one: one[axis])
        ends = cells[0], cells[-1]
        sizes = " to ".join(f"{one[axis]:,}" for one in ends)
        seconds = " to ".join(f"{one['seconds']:.2f}" for one in ends)
        memory = " to ".join(f"{one['peak_bytes'] / 1e9:.2f}" for one in ends)
        shown = axis.replace("lambdas", "cost preferences")
        lines.append(f"| {shown} | {sizes} | {seconds} | {growth:.2f} | {memory} |")
    return "\n".join(lines)


def large_log_table() -> str:
    """Seconds, rows a second and peak memory of reading and of diagnosing logs of each length."""
    results, config = load("large_log"), load("large_log", "config")
    said = {"ingest": "`ingest`", "diagnose": f"`jrouter diagnose LOG --rows {config['sample']}`"}
    lines = [
        "| what | rows | log, GB | s | rows a second | peak memory, GB | bytes a row more |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for step, name in said.items():
        found = results["steps"][step]
        for one, log in zip(found["cells"], results["logs"], strict=True):
            grown = f"{found['bytes_per_row']:.0f}" if one is found["cells"][-1] else ""
            # Of the command its start and compilation too, of reading what it is per row.
            alone = step == "ingest"
            rate = f"{one['rows_per_second']:,.0f}" if alone else ""
            lines.append(
                f"| {name} | {one['rows']:,} | {log['bytes'] / 1e9:.2f} | "
                f"{one['seconds' if alone else 'process_seconds']:.0f} | {rate} | "
                f"{one['peak_bytes'] / 1e9:.2f} | {grown} |"
            )
    return "\n".join(lines)


def encode_table() -> str:
    """Tokens per second of each contestant, and how far its embeddings are from PyTorch's in float32."""
    results, config = load("encode_minilm"), load("encode_minilm", "config")
    lines = [
        f"| {results['texts']:,} texts, {results['tokens']:,} tokens, {config['shape']} | s | tokens a second "
        "| x the faster of PyTorch's ways | largest difference |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, one in results["contestants"].items():
        if name == "tokenise":
            lines.append(f"| `{name}` | {one['median_seconds']:.2f} | {one['tokens_per_second']:,.0f} | | |")
            continue
        precision = name.split("_")[1]
        times = results["times_fastest_torch"][precision] if name.startswith("jrouter") else None
        lines.append(
            f"| `{name}` | {one['median_seconds']:.2f} | {one['tokens_per_second']:,.0f} | "
            f"{'' if times is None else f'{times:.2f}'} | {one['largest_difference']:.0e} |"
        )
    return "\n".join(lines)


def latency_table() -> str:
    """From a text to a decision: p50 and p99 of single queries and of batches."""
    results, config = load("latency")["encoders"], load("latency", "config")
    lines = [
        f"| encoder | contestant | one text: p50, ms | p99, ms | {config['batch']} texts: p50, ms | p99, ms |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for shape, found in results.items():
        for name, single in found["single"].items():
            batched = found["batched"][name]
            cells = (single["p50_ms"], single["p99_ms"], batched["p50_ms"], batched["p99_ms"])
            lines.append(f"| {shape} | `{name}` | " + " | ".join(f"{cell:.2f}" for cell in cells) + " |")
    return "\n".join(lines)


def serving_table() -> str:
    """`Service.decide` from threads: latency, decisions a second, and a reload in traffic."""
    results, threads = load("serving"), load("serving", "config")["threads"].split(",")[-1]
    lines = [
        "| queries | threads | p50, ms | p99, ms | decisions a second |",
        "|---|---:|---:|---:|---:|",
    ]
    for kind, found in results["kinds"].items():
        for count, one in found["threads"].items():
            cells = f"{one['p50_ms']:.2f} | {one['p99_ms']:.2f} | {one['per_second']:,.0f}"
            lines.append(f"| {kind} | {count} | {cells} |")
    for kind, one in results["reload"].items():
        cells = f"{one['p50_ms']:.2f} | {one['p99_ms']:.2f} | "
        lines.append(
            f"| {kind}, while a new version loads and compiles ({one['seconds']:.1f} s) | {threads} | {cells}|"
        )
    return "\n".join(lines)


def peers_table() -> str:
    """What each package's learners took, what their choices are worth over the logs, and what failed."""
    results = load("peers")
    lines = [
        "| package | to install, s | MB | learner | fit, s | on the processor, s | peak memory, GB | true value x 100 "
        "| regret x 100 | value less `rm_auto` |",
        "|---|---:|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    packages = results["packages"]
    ours = {one["seed"]: one["value"] for one in packages["jrouter"]["learners"]["rm_auto"] if one["status"] == "ok"}

    def failed(one: dict[str, Any]) -> str:
        error = one.get("error", "").replace("|", "\\|")
        return f"{one['status']}{': ' + error if error else ''}"

    def over_logs(values: list[float]) -> Estimate:
        # Each log has a world and test queries of its own: what differs between them is all there is.
        return over_seeds(values, [0.0] * len(values))

    for name, package in packages.items():
        installed = ["", ""]
        if package.get("install_seconds") is not None:
            installed = [f"{package['install_seconds']:.0f}", f"{package['installed_bytes'] / 1e6:,.0f}"]
        if not package["learners"]:
            lines.append(f"| {name} | {' | '.join(installed)} | {failed(package)} | | | | | | |")
        for place, (learner, runs) in enumerate(package["learners"].items()):
            head = [name, *installed] if place == 0 else ["", "", ""]
            whole = [one for one in runs if one["status"] == "ok"]
            if len(whole) < len(runs):
                broken = next(one for one in runs if one["status"] != "ok")
                lines.append(f"| {' | '.join(head)} | `{learner}`: {failed(broken)} | | | | | | |")
                continue
            fit, cpu, peak = (median(one[part] for one in whole) for part in _TAKEN)
            value, regret = (over_logs([one[part] for one in whole]) for part in ("value", "regret"))
            cells = f"{fit:.1f} | {cpu:.1f} | {peak / 1e9:.2f} | {100 * value.mean:.1f} | "
            several = len(whole) > 1
            cells += f"{100 * regret.mean:.1f}" + f" ± {100 * regret.half_width:.1f}" * several + " | "
            if learner != "rm_auto":
                less = over_logs([one["value"] - ours[one["seed"]] for one in whole if one["seed"] in ours])
                cells += f"{100 * less.mean:+.1f}" + f" [{100 * less.low:+.1f}, {100 * less.high:+.1f}]" * several
            lines.append(f"| {' | '.join(head)} | `{learner}` | {cells} |")
    means = {
        name: 100 * mean(log["references"][name] for log in results["logs"])
        for name in results["logs"][0]["references"]
    }
    for name, value in means.items():
        regret = "" if name == "logging policy" else f"{means['best model of each query'] - value:.1f}"
        lines.append(f"| | | | {name} | | | | {value:.1f} | {regret} | |")
    return "\n".join(lines)


def speed_table() -> str:
    """What a newcomer would ask, a line each."""
    sweep, off_policy, inference = load("sweep_22"), load("off_policy"), load("inference")
    seconds = {name: one["median_seconds"] for name, one in sweep["contestants"].items()}
    loop, whole = seconds["torch_loop"], sweep["to_equal_utility"]
    values = {name: one["median_seconds"] for name, one in off_policy["contestants"].items()}
    config = load("off_policy", "config")
    encoded, single = load("encode_minilm")["contestants"], load("latency")["encoders"]["minilm"]["single"]
    widest = max(inference["single_query"]["as_installed"], key=lambda one: one["dim"])
    lines = [
        "| what | jrouter | beside |",
        "|---|---|---|",
        f"| {sweep['routers']} routers at equal work, float32 | {seconds['stacked']:.0f} s, "
        f"{sweep['contestants']['stacked']['share_of_matrix_rate']:.2f} of the rate of a large matrix product | "
        f"PyTorch's loop {loop:.0f} s, torch.func.vmap {seconds['torch_vmap']:.0f} s, "
        f"a JAX loop {seconds['jax_loop']:.0f} s |",
        f"| the same, bfloat16 products | {seconds['stacked_bfloat16']:.0f} s | "
        f"PyTorch's loop under autocast {seconds['torch_loop_bfloat16']:.0f} s |",
        f"| the same, nuisances included, to equal test utility | {whole['stopping']['seconds']:.0f} s | "
        f"PyTorch's loop with nuisances once {whole['torch_loop']['shared_nuisances']:.0f} s, "
        f"for each router {whole['torch_loop']['separate_runs']:.0f} s |",
        f"| {len(off_policy['estimators'])} off-policy values, {config['resamples']:,} resamples of "
        f"{config['rows']:,} rows | {values['jrouter']:.2f} s | "
        f"Open Bandit Pipeline {values['obp']:.1f} s, a NumPy loop {values['numpy']:.1f} s |",
        f"| one query of width {widest['dim']:,} through `Router.route`, median | "
        f"{widest['microseconds']['route']['p50']:.0f} us | its network in NumPy "
        f"{widest['microseconds']['numpy']['p50']:.0f} us |",
        f"| texts to embeddings, the shape of all-MiniLM-L6-v2, float32 | "
        f"{encoded['jrouter_float32']['tokens_per_second']:,.0f} tokens a second | transformers' PyTorch model "
        f"{max(one['tokens_per_second'] for name, one in encoded.items() if name.startswith('torch_float32')):,.0f} |",
        f"| one text to a decision, the same encoder, median | {single['route']['p50_ms']:.1f} ms | "
        f"PyTorch {single['torch']['p50_ms']:.1f} ms |",
    ]
    return "\n".join(lines)


TABLES = {
    "speed": speed_table,
    "sweep": lambda: sweep_table("sweep_22"),
    "sweep_220": lambda: sweep_table("sweep_220"),
    "sweep_utility": utility_table,
    "inference": inference_table,
    "single_query": single_query_table,
    "encode": encode_table,
    "latency": latency_table,
    "off_policy": off_policy_table,
    "scaling": scaling_table,
    "large_log": large_log_table,
    "serving": serving_table,
    "peers": peers_table,
}
