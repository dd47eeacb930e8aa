"""Pages: what a log says is shown and never interpreted; nothing is loaded or run; old manifests and bad numbers."""

import ast
import copy
import html
import json
import math
import re
import shlex
import warnings
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jrouter.app.card import router_card
from jrouter.app.diagnosis_page import diagnosis_page
from jrouter.app.diagnosis_plots import as_results
from jrouter.app.page import Markup, element, page, plain_text, table, text
from jrouter.app.parts import sentence
from jrouter.app.plots import AREAS, gains, grouped, models_compared
from jrouter.app.svg import inline_svg, label
from jrouter.diagnostics import diagnose
from jrouter.misfit import moment_names
from jrouter.types import LoggedData, Nuisances

N, D, T = 120, 2, 3
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><svg/onload=alert(1)>",
    "</text></svg><script>alert(1)</script>",
    "</title></style></textarea><iframe src=javascript:alert(1)>",
    "]]><!-- --><base href=//evil.example>",
    "$\\evil{$ &lt;b&gt; &amp;",
    "_hidden\x00\x1b[31m\u202eevil\ud800\n\u6a21\U0001f600",
    "url(#x);}</style>{{7*7}}`${1}`",
)
ALLOWED = {
    "html", "head", "meta", "title", "style", "body", "header", "main", "footer", "nav", "section", "div", "span", "p",
    "a", "h1", "h2", "h3", "ul", "li", "dl", "dt", "dd", "small", "strong", "b", "code", "pre", "table", "caption",
    "thead", "tbody", "tr", "th", "td", "figure", "figcaption", "svg", "g", "path", "defs", "clippath", "rect", "use",
    "text", "tspan",
}  # fmt: skip


class Seen(HTMLParser):
    """Elements, attributes, text, and whether all that was opened was closed."""

    def __init__(self, source: str):
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.comments: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    def handle_comment(self, data):
        self.comments.append(data)

    @property
    def said(self) -> str:
        return "".join(self.words)


def checked(source: str) -> Seen:
    """A page that is whole, and that can neither run nor load anything."""
    source.encode("utf-8")
    seen = Seen(source)
    assert seen.open == [] and seen.comments == []
    assert {tag for tag, _ in seen.tags} <= ALLOWED
    ids = []
    for tag, attributes in seen.tags:
        for name, value in attributes.items():
            assert not name.startswith("on") and name not in ("src", "srcset", "action", "srcdoc", "xlink:href")
            if name == "href":
                assert value is not None and value.startswith("#")
            if name == "id":
                ids.append(value)
            if name == "style":
                assert tag in {"b", "g", "path", "text", "tspan", "rect", "use"}
                assert "url(" not in str(value) and re.fullmatch(r"[\w\s.,:;()#%'-]*", str(value)), value
    assert len(set(ids)) == len(ids), "two elements of one id"
    links = {str(attributes["href"])[1:] for _, attributes in seen.tags if attributes.get("href")}
    assert links <= set(ids)
    policy = [attributes["content"] for _, attributes in seen.tags if attributes.get("http-equiv")]
    assert len(policy) == 1 and str(policy[0]).startswith("default-src 'none';") and "script" not in str(policy[0])
    style = source[source.index("<style>") : source.index("</style>")]
    assert "url(" not in style and "@import" not in style
    return seen


@pytest.fixture(scope="module")
def diagnosis() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, D))
    log_odds = x @ rng.normal(size=(D, T))
    p = np.exp(log_odds) / np.exp(log_odds).sum(axis=1, keepdims=True)
    model = (log_odds + rng.gumbel(size=(N, T))).argmax(axis=1)
    mean = 0.5 + 0.1 * x @ rng.normal(size=(D, T))
    cost = np.array([1e-4, 1e-3, 8e-3]) * np.ones((N, 1))
    row = np.arange(N)
    policy = np.eye(T)[mean.argmax(axis=1)]
    x, score, paid, mean, cost, p, policy = (
        jnp.asarray(one, jnp.float32)
        for one in (x, mean[row, model] + 0.1 * rng.normal(size=N), cost[row, model], mean, cost, p, policy)
    )
    log = LoggedData(x, jnp.asarray(model), score, paid, models=("a", "b", "c"))
    own = jnp.take_along_axis(p, log.model[:, None], axis=1)[:, 0]
    nuisances = Nuisances(own, mean, cost, jnp.zeros(N, jnp.int32), p)
    run = jax.jit(diagnose)
    results = as_results(run(log, nuisances, policy, lam=20.0), log.models, dim=D)
    return json.loads(json.dumps(results))["diagnosis"]


def report_of(diagnosis: dict[str, Any], names=("small", "middle", "large"), word: str = "fine") -> dict[str, Any]:
    """A report with `word` wherever text of a log, its files or its gateway may stand."""
    row = {"lam": 0.0, "value": 0.6, "logging_value": 0.5, "gain": 0.1, "gain_low": 0.05, "gain_high": 0.15}
    row |= {"effective_rows": 60.0, "pareto_k": 0.3, "no_support": 0.01, "verdict": "ok", "reasons": []}
    later = {"lam": 300.0, "gain_low": -0.02, "verdict": "caution", "reasons": [f"{word} 7 rows"]}
    model = {"rows": 40, "share": 1 / 3, "scored": 38, "mean_score": 0.5, "score_error": 0.02, "mean_cost": 2e-4}
    model |= {"effective_rows": 30.0, "largest_weight": 9.0, "pareto_k": 0.2, "no_support": 0.0, "smd_before": 0.4}
    model |= {"smd_after": 0.05, "verdict": "ok", "reasons": [word]}
    rejected = {"reason": f"bad {word}", "rows": 2, "first": [{"file": word, "row": 17, "found": word}]}
    source = {
        "files": [{"name": word, "bytes": 1024, "rows": 122}], "fingerprint": "ab" * 32, "rows_read": 124,
        "rows_kept": 120, "rejected": [rejected], "dropped": {word: 2}, "unscored": 6,
        "joined": {"scores": 114, "matched": 110, "unmatched": 4}, "columns": {"model": word}, "adapter": word,
        "warnings": [f"warned of {word}"], "models": dict.fromkeys(names, 40), "propensity": "absent",
        "time": ["2026-01-01T00:00:00+00:00", "2026-02-01T00:00:00+00:00"],
    }  # fmt: skip
    return {
        "source": source,
        "log": {"rows": 120, "queries": 118, "models": 3, "scored_share": 0.95, "mean_score": 0.51, "mean_cost": 1e-3,
                "cost_unit": word, "time": source["time"]},
        "sample": {"rows": 120, "of": 1_204_331},
        "models": [{"name": name, **model} for name in names],
        "propensity": {"kind": "estimated", "statement": f"estimated {word}",
                       "calibration": diagnosis["propensity_calibration"]},
        "features": moment_names(D),
        "diagnosis": diagnosis,
        "by_lambda": [row, {**row, **later}],
        "verdict": {"level": "caution", "reasons": [f"because {word}"]},
        "versions": {"jrouter": "0.1.0", "jax": word},
        "created": "2026-04-02T09:14:05+00:00",
    }  # fmt: skip


def manifest_of(names=("small", "middle", "large"), word: str = "fine") -> dict[str, Any]:
    at = {"lam": 0.0, "value": 0.6, "value_error": 0.01, "logging_value": 0.5, "gain": 0.1, "gain_low": 0.05}
    at |= {"gain_high": 0.15, "band_low": 0.03, "band_high": 0.17, "gain_over_best": 0.02, "gain_over_best_error": 0.02}
    at |= {"gamma": 1.3, "gamma_beyond": False, "gamma_confident": 10.0, "gamma_confident_beyond": True}
    at |= {"verdict": "ok", "reasons": []}
    return {
        "format": 2, "version": "9c1f0a77be42", "created": "2026-04-02T09:20:11+00:00", "seed": 0, "method": "rm_auto",
        "config": {"depth": word}, "models": list(names), "embedding_dim": 2, "embedding": word, "known": 3,
        "encoder": {"name": word, "architecture": "bert", "dim": 2, "revision": "sha256:12", "pooling": "mean"},
        "lambdas": [0.0, 300.0], "cost_unit": word, "price": [1.0, 0.8, 1.0], "price_date": word, "pool": names[:2],
        "mix": [[0.2, 0.3, 0.5], [0.75, 0.25, 0.0]], "forecast": {"score": [0.4, 0.5, 0.6], "cost": [1e-4, 1e-3, 8e-3]},
        "data": {"fingerprint": "ab" * 32, "rows": 120, "files": [{"name": word, "bytes": 1, "rows": 1}],
                 "time": ["2026-01-01", "2026-02-01"], "models": [{"name": name, "rows": 40} for name in names]},
        "assessment": [at, {**at, "lam": 300.0, "verdict": "refuse", "reasons": [f"for {word}"]}],
        "verdict": {"level": "refuse", "reasons": [f"as {word}"]}, "explanation": [f"took {word}", "", "held-out"],
        "history": [{"created": word, "what": f"did {word}", "effect": f"had {word}"}], "versions": {"jax": word},
    }  # fmt: skip


def test_a_diagnosis_says_its_verdict_first_and_all_that_was_found(diagnosis):
    report = report_of(diagnosis)
    seen = checked(diagnosis_page(report))
    said = seen.said
    assert said.index("Verdict: ! caution") < said.index("Because fine.") < said.index("What to do")
    assert said.index("What to do") < said.index("A plain rule (") < said.index("Rejected rows")
    for part in (
        "120",
        "of 124 read",
        "1,204,331",
        "+10.0 [+5.0, +15.0]",
        "fine row 17",
        "2026-02-01",
        "Estimated fine.",
    ):
        assert part in said, part
    assert "Made 2026-04-02 09:14 UTC." in said and "At 1 of 2 lambdas" in said
    headings = [tag for tag, _ in seen.tags if tag in ("h1", "h2", "h3")]
    assert headings.count("h1") == 1 and headings[0] == "h1" and headings[1] == "h2"
    drawn = [attributes for tag, attributes in seen.tags if tag == "svg"]
    assert len(drawn) == 9 and all(one["role"] == "img" and one["aria-label"] for one in drawn)
    assert diagnosis_page(report) == diagnosis_page(report)


@pytest.mark.parametrize("level", ["ok", "caution", "refuse", "new", None])
def test_every_verdict_has_a_word_and_what_to_do(diagnosis, level):
    report, manifest = report_of(diagnosis), manifest_of()
    report["verdict"] = manifest["verdict"] = {"level": level, "reasons": []}
    for said in (checked(diagnosis_page(report)).said, checked(router_card(manifest)).said):
        shown = said[said.index("Verdict: ") :][:30]
        signs = {"ok": "✓ ok", "caution": "! caution", "refuse": "✕ refuse", "new": "? new", None: "? unknown"}
        assert signs[level] in shown
        assert ("What to do" in said) == (level in ("ok", "caution", "refuse"))


def test_a_card_says_what_is_chosen_how_sure_and_how_to_use_it(diagnosis):
    for report in (None, report_of(diagnosis)):
        said = checked(router_card(manifest_of(), report)).said
        parts = ("Router 9c1f0a77be42", "2 of 3", "× 0.8", "75%", "+10.0 [+5.0, +15.0]", "1.30 (>10.00)", "took fine",
                 "jrouter route DIR --lambda 300", 'fallback=\'small\'', "ab" * 32, "did fine", "had fine")  # fmt: skip
        for part in parts:
            assert part in said, part
        assert "held-out" not in said and "these are from before" in said
        assert ("Estimated fine." in said) == (report is not None)
    other = report_of(diagnosis)
    other["source"]["fingerprint"] = "cd" * 32
    said = checked(router_card(manifest_of(), other)).said
    assert "of another log" in said and "Estimated fine." not in said


@pytest.mark.parametrize("names", [HOSTILE[place : place + 3] for place in range(0, len(HOSTILE), 3)])
def test_names_queries_and_files_are_shown_and_never_markup(diagnosis, names):
    word = " and ".join(names)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # letters without a glyph, labels that matplotlib hides, formulas
        report = report_of(diagnosis, names, word)
        pages = diagnosis_page(report), router_card(manifest_of(names, word), report)
    for source in pages:
        seen = checked(source)
        assert plain_text(word) in seen.said and all(plain_text(name) in seen.said for name in names)
        assert "<script" not in source.lower() and "<img" not in source.lower() and "<iframe" not in source.lower()
        drawn = "".join(re.findall(r"<svg.*?</svg>", source, re.DOTALL))
        letters = "".join(ElementTree.fromstring(f"<a>{drawn}</a>").itertext())
        assert all(label(name).strip() in letters for name in names)


def test_lines_to_copy_hold_names_as_what_they_are():
    for first in range(0, len(HOSTILE), 2):
        names = HOSTILE[first : first + 2]
        manifest = manifest_of(names, HOSTILE[first])
        for encoder in (manifest["encoder"], None):
            source = router_card({"models": list(names), "embedding": HOSTILE[7], "encoder": encoder, "lambdas": [7.0]})
            python, shell, *litellm = [
                html.unescape(lines) for lines in re.findall(r"<pre[^>]*><code>(.*?)</code></pre>", source, re.DOTALL)
            ]
            calls = [node for node in ast.walk(ast.parse(python)) if isinstance(node, ast.Call)]
            given = [word.value for call in calls for word in call.keywords if word.arg == "allowed"]
            assert [ast.literal_eval(one) for one in given] == [list(names)] and len(calls) == 5
            words = shlex.split(shell, comments=True)
            assert words[words.index("--allow") + 1] == plain_text(",".join(names))
            assert words.count("jrouter") == 3 and words.count("<") == 2
            assert len(litellm) == (encoder is not None) and all(ast.parse(lines) for lines in litellm)


def test_without_a_policy_or_with_logged_propensities(diagnosis):
    report = report_of(diagnosis, ("_a", HOSTILE[0], "c"))
    report["diagnosis"] = {**diagnosis, "propensity_calibration": None, "policy_weights": None, "policy_support": None}
    report["propensity"] = {"kind": "logged", "statement": "the log's own", "calibration": None}
    source = diagnosis_page(report)
    weights = next(one for one in re.findall(r"<svg.*?</svg>", source, re.DOTALL) if "Histogram" in one)
    assert " _a" in "".join(ElementTree.fromstring(weights).itertext())  # in the legend, though it begins with _
    said = checked(source).said
    assert "The log's own." in said and "Propensities were not logged" not in said


def test_what_an_older_version_did_not_write_is_said_to_be_missing():
    whole = manifest_of()
    bare = {name: whole[name] for name in ("method", "config", "models", "embedding_dim", "lambdas", "cost_unit")}
    said = checked(router_card(bare)).said
    for part in ("An assessment is not in", "What it was trained on is not in", "? unknown", "jrouter route DIR"):
        assert part in said
    drawn = ("mix", "assessment", "forecast")
    plain = {name: value for name, value in whole.items() if name not in drawn}
    for name in plain:
        checked(router_card({key: value for key, value in plain.items() if key != name}))
        checked(router_card({**plain, name: None}))
    for name in (*drawn, "models", "lambdas", "known", "pool", "data"):
        checked(router_card({**whole, name: None}))
    assert "Verdict: ✕ refuse" in checked(router_card({**whole, "verdict": None})).said  # the worst of its lambdas
    assert "Not in this report." in checked(diagnosis_page({})).said
    checked(router_card({}))


def test_a_model_added_since_is_said_to_be():
    manifest = manifest_of(("small", "middle", "large", "new"))
    said = checked(router_card(manifest)).said
    assert "added since" in said and "Never chosen" not in said
    assert (
        "Never chosen at these lambdas: large."
        in checked(router_card({**manifest, "mix": [[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]})).said
    )
    assert "is not in this router's manifest" in checked(router_card({**manifest, "mix": [[1.0], [0.5, 0.5]]})).said


def test_numbers_that_are_not_known_or_not_finite_are_dashes(diagnosis):
    report = report_of(diagnosis)
    report["models"][1] |= {"mean_score": None, "score_error": None, "mean_cost": None, "pareto_k": math.nan}
    report["by_lambda"][0] |= {"gain": math.nan, "gain_low": math.nan, "gain_high": math.inf}
    report["log"] |= {"mean_cost": None, "time": None}
    said = checked(diagnosis_page(report)).said
    assert (
        "– ± –" in said and "nan" not in said.replace("nuisance", "") and "inf" not in said.replace("information", "")
    )
    none = copy.deepcopy(report)
    for model in none["models"]:
        model |= {"mean_score": None, "score_error": None, "mean_cost": None}
    checked(diagnosis_page(none))


def test_many_models_and_one_lambda(diagnosis):
    names = tuple(f"model {number}" for number in range(40))
    manifest = {**manifest_of(names), "lambdas": [5.0], "mix": [[1 / 40] * 40], "known": 40}
    manifest["assessment"] = manifest["assessment"][:1]
    said = checked(router_card(manifest)).said
    assert "33 others" in said
    report = report_of(diagnosis, names)
    report["by_lambda"] = report["by_lambda"][:1]
    checked(diagnosis_page(report))


def test_groups_hold_all_shares_and_the_most_chosen_by_name():
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.full(12, 0.3), size=5)
    shares[:, 3] = 0.0
    names = [f"m{number}" for number in range(12)]
    parts, kept = grouped(shares, names)
    np.testing.assert_allclose(parts.sum(axis=1), shares.sum(axis=1))
    assert kept[-1] == "4 others" and len(kept) == len(AREAS) + 1 == parts.shape[1] and "m3" not in kept
    least = min(shares[:, names.index(name)].max() for name in kept[:-1])
    assert all(shares[:, number].max() <= least for number in range(12) if names[number] not in kept)
    few, own = grouped(shares[:, :3], names[:3])
    np.testing.assert_array_equal(few, shares[:, :3])
    assert own == names[:3]


def test_a_drawing_takes_the_pages_colours_and_holds_no_ids_of_others():
    found = {"gain": [0.1, 0.2], "gain_low": [0.0, 0.1], "gain_high": [0.2, 0.3], "verdict": ["ok", "refuse"]}
    one, two = (
        inline_svg(lambda axis: gains(axis, [0.0, 1.0], found, unit="USD"), 'about "it" <b>', name=name)
        for name in ("one", "two")
    )
    assert 'aria-label="about &quot;it&quot; &lt;b&gt;"' in one
    assert "currentColor" in one and "#000000" not in one and "font-family" not in one and "<style" not in one
    assert one.replace("one-", "two-") == two
    ids = [set(re.findall(r' id="([^"]*)"', drawn)) for drawn in (one, two)]
    assert ids[0] and not ids[0] & ids[1]
    assert {link for link in re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', one) for link in link if link} <= ids[0]


def test_costs_of_zero_or_one_size_are_drawn():
    for cost in ([0.0, 0.0, 0.0], [1e-3, 1e-3, 1e-3], [1e-5, 0.0, 1.0], [None, None, None]):
        drawn = inline_svg(
            lambda left, right, cost=cost: models_compared(left, right, "abc", [0.1] * 3, None, cost, unit="EUR"),
            "costs",
            name="costs",
            columns=2,
        )
        assert "EUR per 1,000 queries" in drawn


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40), st.text(max_size=40))
def test_any_text_comes_back_as_itself(word, other):
    made = element("p", word, element("b", other, aria_label=word), class_=other)
    seen = Seen(made)
    newlines = str.maketrans({"\r": "\n"})
    assert [tag for tag, _ in seen.tags] == ["p", "b"]
    assert seen.said.translate(newlines) == (plain_text(word) + plain_text(other)).translate(newlines)
    assert seen.tags[1][1]["aria-label"] == plain_text(word)
    made.encode("utf-8")


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
@example("_x")
def test_a_label_is_one_short_line_that_matplotlib_shows(word):
    short = label(word)
    assert len(short) <= 27 and "\n" not in short and not short.startswith("_")


def test_elements_that_could_run_or_load_are_refused():
    for name in ("script", "iframe", "form", "object", "link", "base", "a b", "p onclick=x"):
        with pytest.raises(ValueError, match="not for these pages"):
            element(name, "x")
    for attribute in ("onclick", "src", "style", "action", "x y"):
        with pytest.raises(ValueError, match="not for these pages"):
            element("p", "x", **{attribute: "1"})
    with pytest.raises(ValueError, match="link within the page"):
        element("a", "x", href="javascript:alert(1)")
    assert text(Markup("<b>")) == "<b>" and text("<b>") == "&lt;b&gt;" and text(None) == ""
    assert isinstance(element("p", element("b", "x")), Markup)
    assert sentence("") == "."


def test_a_table_needs_cells_for_its_header():
    with pytest.raises(ValueError, match="zip"):
        table(["a", "b"], [["x"]], caption="short")
    seen = Seen(table(["a", "b", "c"], [["<i>", 1, "words"]], caption="<c>", words=["c"]))
    assert [attributes.get("scope") for tag, attributes in seen.tags if tag == "th"] == ["col", "col", "col", "row"]
    assert [attributes.get("class") for tag, attributes in seen.tags if tag == "td"] == ["number", None]
    assert "<c>" in seen.said and "<i>" in seen.said


def test_a_page_is_one_file_with_a_policy():
    source = page("</title><script>", header=[element("h1", "x")], main=["<b>"])
    seen = checked(source)
    assert source.startswith("<!doctype html>") and ("html", {"lang": "en"}) in seen.tags
    assert "</title><script>" in seen.said
    assert "prefers-color-scheme: dark" in source and "@media print" in source and "width=device-width" in source
