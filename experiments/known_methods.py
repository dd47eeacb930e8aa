"""Which methods --methods may name, and in which order tables show them."""

from baselines import BASELINES

from jrouter.methods import METHODS

REFERENCES = ("logging_policy", "oracle")
"""Not learned here: probabilities [n, T] of the simulation and of hindsight."""
LEARNED = tuple(name for name in METHODS if name not in REFERENCES)
PARTS = (
    "regress_and_compare_stacked",
    "regress_and_compare_stacked_ipw",
    "rm_residual",
    "rm_conditioned",
    "linucb_lower",
)
"""Left out by default, to keep the first command short."""


def chosen_methods(text: str) -> list[str]:
    """Names of --methods, in the table's order.

    Raises:
      ValueError: for an unknown name.
    """
    package = [*LEARNED, *REFERENCES]
    known = [*LEARNED, *BASELINES, *REFERENCES]
    asked = {"all": package, "default": [name for name in package if name not in PARTS]}.get(
        text, [name.strip() for name in text.split(",")]
    )
    for name in asked:
        if name not in known:
            raise ValueError(f"--methods: unknown {name!r}, expected one of {', '.join(known)}")
    return [name for name in known if name in asked]
