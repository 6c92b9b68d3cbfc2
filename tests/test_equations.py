"""Each tagged equation of the papers stands beside its line of code, and in a cell that tests it from both sides."""
import re

import pytest
from conftest import NBS, cells, notebooks

TAGS = [f"{section}.{k}" for section, count in (("N", 8), ("F", 3), ("C", 6), ("W", 4)) for k in range(1, count + 1)]
LIBRARY = [p for p in notebooks() if p.parent in (NBS, NBS/"theory")]


def holds(tag: str, text: str) -> bool: return re.search(re.escape(tag) + r"(?!\d)", text) is not None


@pytest.mark.parametrize("tag", TAGS)
def test_stands_beside_its_line(tag):
    exported = [line for p in LIBRARY for c in cells(p) if c["source"].startswith("#| export") for line in c["source"].splitlines()]
    beside = [line for line in exported if holds(f"({tag})", line) and line.split("#")[0].strip()]
    assert beside, f"no exported line of code carries ({tag})"


@pytest.mark.parametrize("tag", TAGS)
def test_is_tested(tag):
    tests = [c["source"] for p in LIBRARY for c in cells(p) if not c["source"].startswith("#|") and holds(tag, c["source"]) and re.search(r"\btest_\w+\(|\bassert\b", c["source"])]
    assert tests, f"no test cell names ({tag})"
    assert any(re.search(r"\bassert not\b|!=|test_fail|test_ne|[<>]|\bnot torch", t) for t in tests), f"the tests of ({tag}) have one side only"


@pytest.mark.parametrize("tag", TAGS)
def test_is_written_out(tag):
    "The equation itself is shown in LaTeX in the prose of the notebook that implements it."
    assert any(holds(tag, c["source"]) and "$" in c["source"] for p in LIBRARY for c in cells(p, "markdown")), f"no prose shows ({tag})"
