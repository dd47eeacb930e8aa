"""Prices of tokens: the shipped file, one's own, and what is missing."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jrouter.io.errors import DataError
from jrouter.io.prices import HEADER, SHIPPED, Price, priced, read_prices

SPROUT = {
    "aws-claude-3-5-sonnet-v1": (3, 15),
    "aws-titan-text-premier-v1": (0.5, 1.5),
    "openai-gpt-4o": (2.5, 10),
    "openai-gpt-4o-mini": (0.15, 0.6),
    "wxai-granite-3-2b-instruct-8k-max-tokens": (0.1, 0.1),
    "wxai-granite-3-8b-instruct-8k-max-tokens": (0.2, 0.2),
    "wxai-llama-3-1-70b-instruct": (0.9, 0.9),
    "wxai-llama-3-1-8b-instruct": (0.2, 0.2),
    "wxai-llama-3-2-1b-instruct": (0.06, 0.06),
    "wxai-llama-3-2-3b-instruct": (0.06, 0.06),
    "wxai-llama-3-3-70b-instruct": (0.9, 0.9),
    "wxai-llama-3-405b-instruct": (3.5, 3.5),
    "wxai-mixtral-8x7b-instruct-v01": (0.6, 0.6),
}


def write(tmp_path, *lines, header=",".join(HEADER)):
    path = tmp_path / "prices.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def fails(path, *parts):
    with pytest.raises(DataError) as caught:
        read_prices(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message, message
    for part in parts:
        assert part in message, message


def test_shipped_prices_name_their_source():
    prices = read_prices()
    assert {model: price[:2] for model, price in prices.items()} == SPROUT
    assert all(price.source.startswith("https://") for price in prices.values())
    assert SHIPPED.name == "prices.csv"


def test_own_prices_come_first(tmp_path):
    path = write(tmp_path, "openai-gpt-4o,1,2,me,", "mine,0,0.5,,a note", "openai-gpt-4o-mini,,,,", '"a, ""b""",1,1,,')
    prices = read_prices(path)
    assert prices["openai-gpt-4o"] == Price(1.0, 2.0, "me") and prices["mine"] == Price(0.0, 0.5, "")
    assert 'a, "b"' in prices
    assert "openai-gpt-4o-mini" not in prices  # empty prices take the shipped ones away
    assert set(prices) == set(SPROUT) - {"openai-gpt-4o-mini"} | {"mine", 'a, "b"'}
    short = write(tmp_path, "mine,1,2", header="model,input_usd_per_1m,output_usd_per_1m")
    assert read_prices(str(short))["mine"] == Price(1.0, 2.0, "")


def test_bad_prices(tmp_path):
    fails(write(tmp_path, "a,1,2", header="model,input_usd_per_1m,output"), "column 'output_usd_per_1m'", "is missing")
    fails(write(tmp_path, "a,1,2,,", "a,1,2,,"), "row 1, column 'model'", "'a' a second time")
    fails(write(tmp_path, ",1,2,,"), "row 0, column 'model'", "the name of a model")
    fails(write(tmp_path, "b,1,1,,", "a,1,,,"), "row 1, column 'output_usd_per_1m'", "found null")
    fails(write(tmp_path, "b,1,1,,", "a,,1,,"), "row 1, column 'input_usd_per_1m'", "found null")
    for value in ("-1", "nan", "inf", "free"):
        fails(write(tmp_path, f"a,{value},1,,"), "row 0, column 'input_usd_per_1m'", f"'{value}'", "at least 0")
    fails(write(tmp_path), "0 rows")
    fails(tmp_path / "none.csv", "does not exist")


def test_missing_prices_are_all_named():
    prices = {"a": Price(1, 2)}
    assert priced(["a"], prices) == [Price(1, 2)]
    with pytest.raises(DataError) as caught:
        priced(["b", "a", "c"], prices)
    message = str(caught.value)
    assert "none of 'b', 'c'" in message and "'b,<input>,<output>,<source>,'" in message and "`prices=`" in message
    assert ",".join(HEADER) in message


def test_the_lines_that_the_error_asks_for_are_read(tmp_path):
    path = write(tmp_path, "b,<input>,<output>,<source>,".replace("<input>", "1").replace("<output>", "2"))
    assert priced(["b"], read_prices(path)) == [Price(1.0, 2.0, "<source>")]


number = st.floats(0, 1e4, allow_subnormal=False)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.from_regex(r"[a-z][a-z0-9./-]{0,9}", fullmatch=True), st.tuples(number, number), min_size=1))
def test_what_is_written_is_read(tmp_path, table):
    path = write(tmp_path, *(f"{model},{a!r},{b!r},," for model, (a, b) in table.items()))
    found = read_prices(path)
    assert {model: found[model][:2] for model in table} == table


@given(number, number, st.integers(0, 10**6), st.integers(0, 10**6))
def test_cost_is_linear_in_tokens(a, b, n_in, n_out):
    price = Price(a, b)
    assert math.isclose(price.cost(n_in, n_out), n_in * a / 1e6 + n_out * b / 1e6, rel_tol=1e-12, abs_tol=1e-300)
    np.testing.assert_allclose(
        price.cost(np.array([n_in, 0]), np.array([0, n_out])), [price.cost(n_in, 0), price.cost(0, n_out)]
    )
