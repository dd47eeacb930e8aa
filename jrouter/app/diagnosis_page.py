"""The page of a diagnosis: may this log be trusted, what to do, and then what was found. From plain JSON alone."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from jrouter.app.diagnosis_plots import balance_panel, calibration_panel, misfit_panel, p_value, weights_panel
from jrouter.app.numbers import UNKNOWN, count, fixed, moment, number, percent
from jrouter.app.page import (
    Markup,
    bullets,
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
    gain_cells,
    gains_figure,
    part,
    per_thousand,
    reasons_by_lambda,
    reasons_told,
    sentence,
    source_section,
    times,
    verdict_box,
    versions_line,
)
from jrouter.app.plots import height_of, models_compared, support_of_models
from jrouter.app.svg import inline_svg

_MEANING = {
    "ok": (
        "Values estimated from this log can be relied on, as far as a log can tell.",
        [("Learn a router: ", "jrouter fit LOG --out DIR"), ("Then read its card, which has its own intervals.", "")],
    ),
    "caution": (
        "Values estimated from this log may be off. Read the reasons before acting on them.",
        [
            ("See what would mend it, in more queries or more exploration: ", "jrouter plan LOG --gain 0.02"),
            ("A router can be learned; let it serve a small share of the traffic first: ", "jrouter fit LOG --out DIR"),
        ],
    ),
    "refuse": (
        "Do not choose a router by this log: what it would estimate says little of what would happen.",
        [
            ("See how many more queries, or how much exploration, it takes: ", "jrouter plan LOG --gain 0.02"),
            ("Send a few queries at random, and log each choice's probability as `propensity`.", ""),
        ],
    ),
}


def diagnosis_page(report: Mapping[str, Any]) -> str:
    """One self-contained HTML page of a diagnosis.

    Args:
      report: plain JSON, with `source`, `log`, `sample`, `models`, `propensity`, `features`, `diagnosis`, `by_lambda`,
        `verdict`, `versions` and `created`. What is missing is said to be.

    Returns:
      HTML. It runs nothing and loads nothing; names and texts of the log are shown as they are, never interpreted.
    """
    sections = {
        "gain": ("What a router could gain", gain_section),
        "models": ("Each model", _models),
        "overlap": ("Does the log hold what a router would choose?", _overlap),
        "propensity": ("How models were chosen", _propensity),
        "outcome": ("How well scores and costs are predicted", _outcome),
        "source": ("What was read", source_section),
        "limits": ("What no log can show", _limits),
        "words": ("Words", lambda report: [definitions(WORDS)]),
    }
    names = file_names(report.get("source"))
    made = f"Made {moment(report['created'])}. " if report.get("created") else ""
    return page(
        f"Diagnosis of {names}",
        header=[
            element("h1", f"Diagnosis of {names}"),
            element("p", made, "May values estimated from this log be trusted?", class_="soft"),
            verdict_box(report.get("verdict"), _MEANING, _gained(report)),
            *_sample(report),
            _glance(report),
            contents({name: heading for name, (heading, _) in sections.items()}),
        ],
        main=[section(name, heading, *write(report)) for name, (heading, write) in sections.items()],
        footer=[versions_line(report.get("versions"))],
    )


def _sample(report: Mapping[str, Any]) -> list[Markup]:
    sample = part(report, "sample")
    if not sample:
        return []
    said = f"Diagnosed on {count(sample.get('rows'))} rows drawn at random from the {count(sample.get('of'))} kept."
    return [element("p", element("strong", said), " Rows below are counted in this sample, but for “What was read”.")]


def _glance(report: Mapping[str, Any]) -> Markup:
    log, source = part(report, "log"), part(report, "source")
    unit, kind = log.get("cost_unit", "USD"), part(report, "propensity").get("kind")
    return facts(
        [
            ("Rows kept", count(source.get("rows_kept", log.get("rows"))), f"of {count(source.get('rows_read'))} read"),
            ("Queries", count(log.get("queries"))),
            ("Models", count(log.get("models"))),
            ("Scored", percent(log.get("scored_share")), f"mean score {number(log.get('mean_score'))}"),
            ("Mean cost", f"{number(per_thousand(log.get('mean_cost')))} {unit}", "per 1,000 queries"),
            (
                "Propensities",
                kind or UNKNOWN,
                {"estimated": "weaker than logged ones", "logged": "by the log itself"}.get(str(kind)),
            ),
            ("Time", *times(log.get("time"))),
        ]
    )


def gain_section(report: Mapping[str, Any]) -> list[Markup]:
    """Gain over the logging policy at each lambda, of rows on which nothing was learned."""
    rows, unit = report.get("by_lambda") or [], part(report, "log").get("cost_unit", "USD")
    if not rows:
        return [element("p", "Not in this report.")]
    said = _gained(report)
    cells = [
        [
            *gain_cells(row),
            count(row["effective_rows"]),
            fixed(row["pareto_k"]),
            percent(row["no_support"]),
            level(row["verdict"]),
        ]
        for row in rows
    ]
    header = ["lambda", "value", "the log's", "gain [95%]", "effective rows", "Pareto k", "no support", "verdict"]
    return [
        element(
            "p",
            "A plain rule (the model of highest predicted score − lambda × cost), learned on one part of the log and "
            f"valued on another. {said} A fitted router may do better.",
        ),
        gains_figure(rows, unit, said),
        table(header, cells, caption="Utilities × 100, at each lambda.", words=["verdict"]),
        reasons_by_lambda(rows),
    ]


def _gained(report: Mapping[str, Any]) -> str:
    """At how many lambdas a plain rule gains."""
    rows = report.get("by_lambda") or []
    sure = [row for row in rows if row["gain_low"] > 0]
    if not rows:
        return ""
    if not sure:
        return "At no lambda is the gain of a plain rule over what the log did told apart from 0."
    most = fixed(100 * max(row["gain"] for row in sure), 1, sign=True)
    return (
        f"At {len(sure)} of {len(rows)} lambdas a plain rule gains over what the log did, by its 95% interval: up to "
        f"{most} in utility × 100."
    )


def _models(report: Mapping[str, Any]) -> list[Markup]:
    models, unit = report.get("models") or [], part(report, "log").get("cost_unit", "USD")
    if not models:
        return [element("p", "Not in this report.")]
    names = [model["name"] for model in models]
    compared = partial(
        models_compared,
        names=names,
        score=[model["mean_score"] for model in models],
        error=[model["score_error"] for model in models],
        cost=[model["mean_cost"] for model in models],
        unit=unit,
    )
    supported = partial(
        support_of_models,
        names=names,
        rows=[model["rows"] for model in models],
        effective=[model["effective_rows"] for model in models],
    )
    size = (4.8, height_of(len(models)))
    drawn = [
        figure(
            inline_svg(compared, "Mean score and cost of each model; the table has the numbers.", name="models",
                       columns=2, size=size),
            "Score and cost as logged",
            "Means over the queries that each model was given, with 95% intervals. They are not comparable where "
            "harder queries went to one model: that is what the weights are for.",
        ),
        figure(
            inline_svg(supported, "Rows and effective rows of each model; the table has the numbers.", name="support",
                       size=size),
            "Rows, and what they are worth",
            "Effective rows: had that one model answered every query, the log would tell of it what so many rows do.",
        ),
    ]  # fmt: skip
    header = ["model", "verdict", "rows", "scored", "mean score", f"{unit} per 1,000", "effective rows",
              "largest weight", "Pareto k", "no support", "SMD, weighted"]  # fmt: skip
    cells = [
        [
            model["name"],
            level(model["verdict"]),
            f"{count(model['rows'])} ({percent(model['share'], 0)})",
            count(model["scored"]),
            f"{fixed(model['mean_score'], 3)} ± {fixed(_half_width(model['score_error']), 3)}",
            number(per_thousand(model["mean_cost"])),
            count(model["effective_rows"]),
            number(model["largest_weight"]),
            fixed(model["pareto_k"]),
            percent(model["no_support"]),
            f"{fixed(model['smd_before'])} → {fixed(model['smd_after'])}",
        ]
        for model in models
    ]
    reasons = [(str(model["name"]), reason) for model in models for reason in model.get("reasons") or []]
    return [
        element("div", *drawn, class_="figures"),
        table(header, cells, caption="Each model as if it were to answer every query.", words=["verdict"]),
        reasons_told(reasons),
    ]


def _half_width(error: Any) -> float | None:
    return None if error is None else 1.96 * error


def _overlap(report: Mapping[str, Any]) -> list[Markup]:
    found = part(report, "diagnosis")
    if not found:
        return [element("p", "Not in this report.")]
    names = [model["name"] for model in report.get("models") or []]
    policy, said = found.get("policy_weights"), ""
    if policy is not None:
        said = (
            f"{count(policy['effective_rows'])} effective rows of {count(found['rows'])}; largest weight "
            f"{number(policy['largest'])}, mean {fixed(policy['mean'], 3)} (1 is expected), "
            f"Pareto k {fixed(policy['pareto_k'])}. "
        )
    weights = inline_svg(
        partial(weights_panel, found=found, models=names), f"Histogram of importance weights. {said}", name="weights"
    )
    features = list(report.get("features") or [])[1:]
    balanced = inline_svg(
        partial(balance_panel, balance=found["balance"], names=features),
        "Standardised mean differences of features of the queries, before and after weighting.",
        name="balance",
        size=(4.8, 3.6),
    )
    return [
        element("p", "Only rows where the log did what the new policy would do tell what that brings. Each such row is "
                     "weighted, so that together they stand for all queries."),
        element(
            "div",
            figure(weights, "Importance weights of the rule",
                   f"{said}Rows of weight 0, where the log did something else, are not drawn."),
            figure(balanced, "Do the weights make queries alike?",
                   "Filled points should be near 0, left of the dotted line: then each model's weighted queries look "
                   "like all queries. x1, x2, … are directions of the embeddings, x1^2 their squares."),
            class_="figures",
        ),
    ]  # fmt: skip


def _propensity(report: Mapping[str, Any]) -> list[Markup]:
    given, found = part(report, "propensity"), part(report, "diagnosis")
    said = [element("p", with_code(sentence(given.get("statement") or "Not in this report")))]
    calibration = found.get("propensity_calibration")
    if calibration is None:
        return said
    svg = inline_svg(
        lambda axis: calibration_panel(axis, found, "propensity"),
        f"Share logged against estimated propensity; slope {fixed(calibration['slope'])}.",
        name="propensity-curve",
    )
    caption = (
        f"Points on the line are right. Slope {fixed(calibration['slope'])} (1 is calibrated, z "
        f"{fixed(calibration['slope_z'], 1)}); mean distance from the line {fixed(calibration['error'], 3)}."
    )
    return [*said, element("div", figure(svg, "Estimated propensities", caption), class_="figures")]


def _outcome(report: Mapping[str, Any]) -> list[Markup]:
    found = part(report, "diagnosis")
    if not found:
        return [element("p", "Not in this report.")]
    drawn = []
    for name in ("score", "cost"):
        slope = found[f"{name}_calibration"]["slope"]
        svg = inline_svg(
            lambda axis, name=name: calibration_panel(axis, found, name),
            f"Observed against predicted {name}; slope {fixed(slope)}.",
            name=f"{name}-curve",
        )
        about = f"Bins of equal weight, all models; points on the line are right. Slope within models {fixed(slope)}."
        drawn.append(figure(svg, f"Predicted {name}", about))
    tested = ", ".join(f"{name} p {p_value(found[f'{name}_misfit']['p_value'])}" for name in
                       ("propensity", "score", "cost", "utility"))  # fmt: skip
    misfit = inline_svg(
        lambda axis: misfit_panel(axis, found), f"Misfit of propensity, score and cost: {tested}.", name="misfit"
    )
    about = (
        "Whether errors of the predictions go with something in the query. Points far above the line do; a small p "
        f"says that something is missed: {tested}. Values are right as long as propensities or predictions are, so one "
        "small p alone is no reason to worry."
    )
    return [element("div", *drawn, figure(misfit, "What predictions miss", about), class_="figures")]


def _limits(report: Mapping[str, Any]) -> list[Markup]:
    kind = part(report, "propensity").get("kind")
    said = [
        "Whatever drove the choice of a model and is not in the query (a user's plan, a retry, a colleague's hunch) "
        "can bias every number here, and leaves no trace in the log. A fitted router's card says how strong such "
        "hidden confounding must be for its gain to vanish.",
        "Scores are taken as they are. Where the judge prefers one model's style, so will a router.",
        "All of it is of queries like the log's. When traffic changes, diagnose again.",
    ]
    if kind != "logged":
        said.insert(0, "Propensities were not logged. Log them from now on: it costs nothing and settles the choice.")
    return [bullets(said)]
