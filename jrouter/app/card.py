"""The card of a saved router: what it was trained on, how sure it is, what it chooses when, and how to use it."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from jrouter.app.numbers import UNKNOWN, count, fixed, moment, number, percent
from jrouter.app.page import (
    Markup,
    contents,
    definitions,
    element,
    facts,
    figure,
    level,
    page,
    section,
    table,
    with_code,
)
from jrouter.app.parts import (
    WORDS,
    file_names,
    files_table,
    gain_cells,
    gains_figure,
    part,
    per_thousand,
    reasons_by_lambda,
    sentence,
    source_section,
    times,
    verdict_box,
    versions_line,
)
from jrouter.app.plots import grouped, height_of, key, mix, models_compared
from jrouter.app.svg import inline_svg
from jrouter.app.usage import usage

_MEANING = {
    "ok": (
        "What this router is worth could be estimated from its log, as far as a log can tell.",
        [
            ("Choose a lambda for a budget or a quality: ", "jrouter calibrate DIR LOG --budget 0.002"),
            ("Serve it, and log each decision's probability: ", "jrouter route DIR --lambda LAMBDA --explore 0.05"),
        ],
    ),
    "caution": (
        "What this router is worth is not well known. Read the reasons before it takes traffic.",
        [
            (
                "Let it serve a small share of the traffic, exploring: ",
                "jrouter route DIR --lambda LAMBDA --explore 0.1",
            ),
            ("Then value it on what that logged: ", "jrouter evaluate DIR NEW_LOG"),
        ],
    ),
    "refuse": (
        "This router's worth could not be estimated from its log. Do not let it take traffic on these numbers.",
        [
            ("See how many more queries, or how much exploration, it takes: ", "jrouter plan LOG --gain 0.02"),
            ("Fit again on a log that explores.", ""),
        ],
    ),
}
_MORE_WORDS = {
    "Gamma": "How strong hidden confounding must be for the gain to vanish: the odds of choosing a model, given "
    "everything, differ from the propensity's by up to this factor. At 1 nothing hidden is needed. In brackets: "
    "allowing for chance.",
    "band": "Holds the gains at all lambdas at once in 95% of cases; an interval is for one lambda alone.",
}


def router_card(manifest: Mapping[str, Any], report: Mapping[str, Any] | None = None) -> str:
    """One self-contained HTML page of a saved router.

    Args:
      manifest: that `Router.save` writes. Fields that an older version did not write are said to be missing.
      report: of the diagnosis of its log, as of `diagnosis_page`.

    Returns:
      HTML. It runs nothing and loads nothing.
    """
    sections = {
        "choices": ("What it chooses when", _choices),
        "worth": ("What it is worth, and how sure that is", _worth),
        "models": ("Models and prices", _models),
        "use": ("How to use it", usage),
        "data": ("What it was trained on", partial(_data, report=report or {})),
        "method": ("How it was made", _method),
        "history": ("History", _history),
        "words": ("Words", lambda manifest: [definitions(_words())]),
    }
    name = f"Router {manifest['version']}" if manifest.get("version") else "Router"
    models = manifest.get("models") or []
    made = f" Made {moment(manifest['created'])}." if manifest.get("created") else ""
    return page(
        name,
        header=[
            element("h1", name),
            element("p", f"Chooses, query by query, which of {len(models)} models answers.{made}", class_="soft"),
            verdict_box(_verdict(manifest), _MEANING, _gained(manifest)),
            _glance(manifest),
            contents({name: heading for name, (heading, _) in sections.items()}),
        ],
        main=[section(name, heading, *write(manifest)) for name, (heading, write) in sections.items()],
        footer=[versions_line(manifest.get("versions"))],
    )


def _words() -> dict[str, str]:
    kept = ("score", "lambda", "gain", "propensity", "effective rows", "Pareto k")
    return {name: WORDS[name] for name in kept} | _MORE_WORDS


def _missing(what: str) -> list[Markup]:
    return [element("p", f"{what} is not in this router's manifest: it was saved without it, or by an older version.")]


def _verdict(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """Its own verdict, or the worst of its assessment."""
    own = part(manifest, "verdict")
    rows = manifest.get("assessment") or []
    if own or not rows:
        return own
    order = ("ok", "caution", "refuse")
    worst = max((row["verdict"] for row in rows), key=lambda one: order.index(one) if one in order else len(order))
    return {"level": worst, "reasons": list(dict.fromkeys(reason for row in rows for reason in row["reasons"]))}


def _glance(manifest: Mapping[str, Any]) -> Markup:
    data, lambdas, encoder = part(manifest, "data"), manifest.get("lambdas") or [], part(manifest, "encoder")
    unit, models, pool = manifest.get("cost_unit", "USD"), manifest.get("models") or [], manifest.get("pool")
    pool = pool if pool and len(pool) < len(models) else None
    reads = "texts and embeddings" if encoder else "embeddings only"
    width = f"of width {count(manifest.get('embedding_dim'))}"
    return facts(
        [
            ("Models", f"{len(pool)} of {len(models)}" if pool else len(models), "in use" if pool else None),
            (
                "Lambda",
                f"{number(lambdas[0])} to {number(lambdas[-1])}" if lambdas else UNKNOWN,
                f"score per {unit}; others are clipped",
            ),
            ("Trained on", f"{count(data['rows'])} rows" if data.get("rows") else "not known", file_names(data)),
            ("Traffic", *times(data.get("time"))),
            ("Reads", reads, encoder.get("name") or manifest.get("embedding"), width),
            ("Prices", str(manifest.get("price_date") or "as logged")[:10]),
            ("Method", manifest.get("method") or UNKNOWN, f"seed {manifest.get('seed', 'not known')}"),
        ]
    )


def _shares(manifest: Mapping[str, Any]) -> np.ndarray | None:
    """What it chose on its training log, [L, T], 0 of models that were added since; None where it is not known."""
    lambdas, models, given = (manifest.get(name) or [] for name in ("lambdas", "models", "mix"))
    widths = {len(row) for row in given}
    if len(given) != len(lambdas) or len(widths) != 1 or max(widths) > len(models):
        return None
    shares = np.array(given, float)
    return np.pad(shares, ((0, 0), (0, len(models) - shares.shape[1])))


def _choices(manifest: Mapping[str, Any]) -> list[Markup]:
    shares = _shares(manifest)
    if shares is None:
        return _missing("What it chooses on its training log")
    lambdas, models, unit = manifest["lambdas"], manifest["models"], manifest.get("cost_unit", "USD")
    drawn, names = grouped(shares, models)
    svg = inline_svg(
        partial(mix, lambdas=lambdas, shares=drawn, unit=unit),
        "Share of queries that each model gets at each lambda; the table has the numbers.",
        name="mix",
        size=(4.8, 3.0),
    )
    changed = " It was changed since (see History): these are from before." if manifest.get("history") else ""
    rows = [[name, *(percent(share, 0) for share in shares[:, place])] for place, name in enumerate(models)]
    known = int(manifest.get("known") or len(models))
    never = [str(name) for name, most in zip(models[:known], shares.max(axis=0), strict=False) if most == 0]
    content = [
        element("p", "A low lambda asks for the best score, a high one for the lowest cost. These are its choices on "
                     f"queries of its training log.{changed}"),
        figure(svg, "Share of queries by model", "From left to right cost weighs more.", key(names)),
        table(["model", *(number(lam) for lam in lambdas)], rows, caption="Share of queries, at each lambda."),
    ]  # fmt: skip
    if never:
        said = f"Never chosen at these lambdas: {', '.join(never)}. "
        content.append(element("p", said, element("code", "jrouter pool DIR"), " can prune them."))
    return content


def _worth(manifest: Mapping[str, Any]) -> list[Markup]:
    rows, unit = manifest.get("assessment") or [], manifest.get("cost_unit", "USD")
    if not rows:
        return _missing("An assessment")
    said = _gained(manifest)
    cells = [
        [
            *gain_cells(row),
            f"{fixed(100 * row['gain_over_best'], 1, sign=True)} ± {fixed(196 * row['gain_over_best_error'], 1)}",
            f"{_gamma(row, 'gamma')} ({_gamma(row, 'gamma_confident')})",
            level(row["verdict"]),
        ]
        for row in rows
    ]
    header = ["lambda", "value", "the log's", "gain over the log [95%]", "over the best single model",
              "Gamma", "verdict"]  # fmt: skip
    return [
        element("p", f"{said} Measured on rows that the router had not seen, by routers learned like this one on the "
                     "other rows: this router, learned on all of them, should do no worse."),
        gains_figure(rows, unit, said, band=True),
        table(header, cells, caption="Utilities × 100, at each lambda.", words=["verdict"]),
        reasons_by_lambda(rows),
    ]  # fmt: skip


def _gained(manifest: Mapping[str, Any]) -> str:
    """At how many lambdas it gains."""
    rows = manifest.get("assessment") or []
    sure = [row for row in rows if row["gain_low"] > 0]
    best = [row for row in rows if row["gain_over_best"] > 1.96 * row["gain_over_best_error"]]
    return (
        f"Its gain over what the log did is above 0, by its 95% interval, at {len(sure)} of {len(rows)} lambdas; its "
        f"gain over the best single model at {len(best) or 'none'} of them."
        if rows
        else ""
    )


def _gamma(row: Mapping[str, Any], name: str) -> str:
    return f"{'>' if row[f'{name}_beyond'] else ''}{fixed(row[name])}"


def _models(manifest: Mapping[str, Any]) -> list[Markup]:
    models, unit = manifest.get("models") or [], manifest.get("cost_unit", "USD")
    if not models:
        return _missing("The list of models")
    logged = {one.get("name"): one for one in part(manifest, "data").get("models") or []}
    forecast, pool, shares = part(manifest, "forecast"), manifest.get("pool"), _shares(manifest)
    known = int(manifest.get("known") or len(models))
    if forecast:
        score, cost = (_padded(forecast.get(name), len(models)) for name in ("score", "cost"))
        about = "Mean forecasts for queries of the training log, had each model answered all of them."
    else:
        score, cost = ([logged.get(name, {}).get(f"mean_{what}") for name in models] for what in ("score", "cost"))
        about = "Means over the queries that each model was given in the log: not the same queries for all."
    content = []
    if any(value is not None for value in score):
        compared = partial(models_compared, names=models, score=score, error=None, cost=cost, unit=unit)
        svg = inline_svg(compared, "Score and cost of each model; the table has the numbers.", name="models",
                         columns=2, size=(4.8, height_of(len(models))))  # fmt: skip
        content.append(element("div", figure(svg, "Score and cost", about), class_="figures"))
    else:
        content += _missing("The score and cost of each model")
    price = _padded(manifest.get("price"), len(models))
    rows = [
        [
            name,
            "yes" if pool is None or name in pool else "no",
            count(logged.get(name, {}).get("rows")) if place < known else "added since",
            fixed(score[place], 3),
            number(per_thousand(cost[place])),
            f"× {number(price[place])}" if price[place] is not None else UNKNOWN,
            UNKNOWN if shares is None or place >= known else percent(shares[:, place].max(), 0),
        ]
        for place, name in enumerate(models)
    ]
    header = ["model", "in use", "rows", "score", f"{unit} per 1,000", "price factor", "chosen at most"]
    dated = f", by prices of {moment(manifest['price_date'])}" if manifest.get("price_date") else ""
    caption = f"Costs are the log's; the price factor is on them{dated}. Chosen at most: at any lambda, in training."
    return [*content, table(header, rows, caption=caption, words=["in use"])]


def _padded(values: Any, size: int) -> list[Any]:
    """As many values as there are models, None of those that are not known."""
    return [*(values or []), *([None] * size)][:size]


def _data(manifest: Mapping[str, Any], report: Mapping[str, Any]) -> list[Markup]:
    data = part(manifest, "data")
    if part(report, "source"):
        kind, source = part(report, "propensity").get("statement"), part(report, "source")
        if data.get("fingerprint") not in (None, source.get("fingerprint")):
            return [
                element("p", "The diagnosis given is of another log than this router was trained on: it is left out."),
                *files_table(data.get("files"), data["fingerprint"]),
            ]
        said = [element("p", with_code(sentence(kind)))] if kind else []
        return [*said, *source_section(report)]
    if not data:
        return _missing("What it was trained on")
    first, until = times(data.get("time"))
    span = f", from {first} {until}" if until else ""
    said = element("p", f"{count(data.get('rows'))} rows{span}. The diagnosis of the log is not at hand.")
    return [said, *files_table(data.get("files"), data.get("fingerprint"))]


def _method(manifest: Mapping[str, Any]) -> list[Markup]:
    settings = {
        "method": manifest.get("method"),
        **{f"setting {name}": value for name, value in part(manifest, "config").items()},
        "seed": manifest.get("seed"),
        "embedding": manifest.get("embedding"),
        **{f"encoder {name}": value for name, value in part(manifest, "encoder").items() if value not in (None, "")},
        "format of the manifest": manifest.get("format"),
    }
    rows = [[name, str(value)] for name, value in settings.items() if value is not None]
    content = [table(["what", "value"], rows, caption="What it takes to make it again.", long="value")]
    lines = manifest.get("explanation") or []
    # The assessment follows an empty line; it is a section of its own.
    decided = [str(line) for line in (lines[: lines.index("")] if "" in lines else lines)]
    if decided and decided != [manifest.get("method")]:
        content += [element("h3", "What the method decided"), element("pre", "\n".join(decided), tabindex=0)]
    return content


def _history(manifest: Mapping[str, Any]) -> list[Markup]:
    history: Sequence[Mapping[str, Any]] = manifest.get("history") or []
    if not history:
        return [element("p", "Nothing was done to it since it was made, as far as its manifest says.")]
    rows = [[moment(one.get("created")), one.get("what"), one.get("effect") or UNKNOWN] for one in history]
    return [table(["when", "what", "effect"], rows, caption="What was done to it.", words=["what"], long="effect")]
