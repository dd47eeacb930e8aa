"""Prices of tokens, by which a benchmark that counts tokens gets its costs: a CSV file that anyone may edit."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jrouter.io.columns import CSV
from jrouter.io.errors import DataError, describe, listed
from jrouter.io.files import read_files

SHIPPED = Path(__file__).with_name("prices.csv")
INPUT, OUTPUT = "input_usd_per_1m", "output_usd_per_1m"
HEADER = ("model", INPUT, OUTPUT, "source", "note")


class Price(NamedTuple):
    """What a model's tokens cost.

    Attributes:
      input: USD per million tokens of the query.
      output: USD per million tokens of the answer.
      source: where the prices were read, or "".
    """

    input: float
    output: float
    source: str = ""

    def cost(self, input_tokens: Any, output_tokens: Any) -> Any:
        """Returns USD: (input_tokens * input + output_tokens * output) / 1e6, elementwise.

        >>> Price(3.0, 15.0).cost(1000, 100)
        0.0045
        """
        return (input_tokens * self.input + output_tokens * self.output) / 1e6


def read_prices(path: str | os.PathLike | None = None) -> dict[str, Price]:
    """Reads the price of every model that has one.

    A CSV file has the columns model, input_usd_per_1m and output_usd_per_1m, and optionally source and note.
    A model whose two prices are empty has none.

    Args:
      path: a file whose rows come before those that jrouter ships, model by model; None for the shipped ones, the
        prices at which CARROT compares SPROUT's models (Somerstep et al. 2025; each row names its source).

    Returns:
      Name of a model -> its price; one with empty prices in `path` is left out.

    Raises:
      DataError: a file that is missing or malformed; a model twice or without a name; one price of two; a price
        that is no finite number of at least 0.

    >>> read_prices()["openai-gpt-4o-mini"][:2]
    (0.15, 0.6)
    """
    own = {} if path is None else _read(path)
    return {model: price for model, price in (_read(SHIPPED) | own).items() if price is not None}


def priced(models: Sequence[str], prices: Mapping[str, Price]) -> list[Price]:
    """Returns the price of each model, in order.

    Raises:
      DataError: models without a price, all of them named, with the lines to add.
    """
    missing = [model for model in models if model not in prices]
    if missing:
        lines = " ".join(f"'{model},<input>,<output>,<source>,'" for model in missing)
        raise DataError(
            f"prices: none of {listed(missing)}; write a CSV file with the header '{','.join(HEADER)}' and the lines "
            f"{lines} (USD per million tokens), and pass its path as `prices=`."
        )
    return [prices[model] for model in models]


def _read(path: str | os.PathLike) -> dict[str, Price | None]:
    def choose(names: list[str], file: str) -> dict[str, str]:
        for name in ("model", INPUT, OUTPUT):
            if name not in names:
                raise describe(file, f"is missing; the columns of prices are {listed(HEADER)}", column=name)
        return {name: name for name in HEADER if name in names and name != "note"}

    rows = read_files(path, choose, CSV)
    rows.require("model", ~rows.nulls("model"), "the name of a model")
    models = rows.text("model", "the name of a model").to_pylist()
    cost = {
        name: rows.floats(name, "USD per million tokens, of at least 0", low=0.0, null=True) for name in HEADER[1:3]
    }
    none = {name: rows.nulls(name) for name in cost}
    for name, other in ((INPUT, OUTPUT), (OUTPUT, INPUT)):
        rows.require(name, ~none[name] | none[other], f"a price, as '{other}' has one")
    source = rows.columns["source"].fill_null("").to_pylist() if "source" in rows.columns else [""] * rows.rows
    table: dict[str, Price | None] = {}
    for row, model in enumerate(models):
        if model in table:
            raise rows.error(f"found {model!r} a second time; keep one row of each model", "model", row)
        price = Price(float(cost[INPUT][row]), float(cost[OUTPUT][row]), source[row])
        table[model] = None if none[INPUT][row] else price
    return table
