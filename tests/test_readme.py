"""The README's promises: its example runs in a fresh interpreter, and its commands exist."""
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from conftest import NBS, ROOT, readme_tool

README, INDEX, DECIDE = ROOT/"README.md", NBS/"index.ipynb", NBS/"decide.ipynb"
readme = readme_tool()


def fenced(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), flags=re.S | re.M)


def test_example_prints_a_falling_distance(tmp_path):
    example, = fenced("python")
    assert len([line for line in example.splitlines() if line.strip()]) <= 12
    done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    distances = [float(line.split()[-1]) for line in done.stdout.splitlines() if line.strip()]
    assert len(distances) >= 3 and distances[-1] < distances[0]/2
    assert sum(b < a for a, b in zip(distances, distances[1:])) >= len(distances) - 2     # it falls, but for at most one step


def test_commands_exist():
    text = README.read_text()
    targets = re.findall(r"^([a-z-]+):", (ROOT/"Makefile").read_text(), flags=re.M)
    named = set(re.findall(r"\bmake ([a-z-]+)", text))
    assert {"reproduce", "test"} <= named <= set(targets)
    from nats_companion.cli import parser
    for words in re.findall(r"^nats-companion (.+?)(?: +#.*)?$", "\n".join(fenced("sh")), flags=re.M): assert parser().parse_args(shlex.split(words))


def test_first_words_say_what_it_is():
    lines = README.read_text().splitlines()
    assert lines[0] == "# NATS Companion" and any(line.startswith("> ") for line in lines[:4])
    assert (ROOT/"reports"/"cpu"/"figures").is_dir() and re.search(r"!\[[^\]]+\]\(reports/cpu/figures/\w+\.png\)", README.read_text())


@pytest.mark.parametrize("page, least", [(INDEX, 40), (DECIDE, 60)], ids=lambda p: getattr(p, "stem", ""))
def test_every_number_with_an_interval_names_its_cell_and_is_that_cell(page, least):
    "A quotation is `value<!-- table [row] column -->`; the value is computed from the table by `make readme`."
    text = page.read_text()
    assert readme.filled(text, ROOT/"reports") == text, "run `make readme`: a table says something else by now"
    bare = re.findall(r"[+−-]?\d+(?:\.\d+)? ± \d+(?:\.\d+)?(?!<!-- )(?![\d.])", text if page == DECIDE else README.read_text())
    assert not bare, f"{bare} do not say which cell of which table they are"
    assert len(readme.QUOTED.findall(text)) >= least


@pytest.fixture
def spoilt(tmp_path):
    "A function of a page, a table and what spoils it: whether the page would then be filled otherwise."
    for scale in ("cpu", "gpu"): shutil.copytree(ROOT/"reports"/scale/"tables", tmp_path/scale/"tables")
    shutil.copytree(ROOT/"reports"/"tuning", tmp_path/"tuning")
    def seen(page, table, spoil):
        path, text = tmp_path/"cpu"/"tables"/f"{table}.csv", page.read_text()
        before = path.read_text()
        assert readme.filled(text, tmp_path) == text
        path.write_text(spoil(before))
        other = readme.filled(text, tmp_path)
        path.write_text(before)
        return other != text and other
    return seen


def swap(a, b): return lambda s: s.replace(a, "\0").replace(b, a).replace("\0", b)


def test_a_swapped_row_or_sign_is_seen(spoilt, tmp_path):
    assert spoilt(INDEX, "tab_schemes", swap("\nNTS,flow,", "\nNATS,flow,"))
    assert spoilt(INDEX, "tab_schemes_verdicts", lambda s: s.replace('"NTS flow, plain D","CTS, best found",-', '"NTS flow, plain D","CTS, best found",'))
    assert spoilt(INDEX, "tab_networks", swap(",CTS,", ",NTS,"))
    assert spoilt(INDEX, "tab_networks_verdicts", lambda s: s.replace("relation: NTS,relation: CTS,-", "relation: NTS,relation: CTS,"))
    assert not spoilt(INDEX, "tab_schemes", lambda s: s)
    with pytest.raises(ValueError, match="names 0 rows"): readme.cell_of("tab_schemes", "scheme=NOTS", "FD", tmp_path)
    with pytest.raises(ValueError, match="names 1 rows and the columns \\[\\]"): readme.cell_of("tab_schemes", "scheme=CTS; reading=alternating", "FID", tmp_path)


def test_the_decision_page_follows_its_tables(spoilt):
    swapped = spoilt(DECIDE, "tab_networks", swap(",CTS,", ",NTS,"))
    assert "**CTS or NATS**<!-- least tab_networks [networks=MLP] " in swapped and "**CTS or NATS**" not in DECIDE.read_text()
    assert spoilt(DECIDE, "tab_datasets", swap(",CTS,", ",NTS,")) and spoilt(DECIDE, "fig5", swap("\nCTS,", "\nNTS,"))
    for recipe in ("mimicry", "biggan", "r3gan", "stability", "accelerate"): assert spoilt(DECIDE, recipe, swap("\nCTS,", "\nNTS flow,")), recipe
    assert spoilt(DECIDE, "cfg", swap("\nCTS,", "\nNTS -D,")) and spoilt(DECIDE, "tab_nd", swap(",NTS,", ",NATS,"))
    assert spoilt(DECIDE, "tab_losses", swap(",CTS,", ",NATS,")) and spoilt(DECIDE, "tab_presets", swap(",NTS,", ",NATS,"))
    assert spoilt(DECIDE, "tab_presets_settings", swap(",CTS,", ",NTS,")) and not spoilt(DECIDE, "tab_networks", lambda s: s)


def test_a_choice_names_those_that_reach_the_least(tmp_path):
    path = tmp_path/"cpu"/"tables"/"t.csv"
    path.parent.mkdir(parents=True)
    def chosen(*cells, where="", by="row"):
        path.write_text("row,kind,FD\n" + "".join(f"{name},k,{cell} (n = 5)\n" for name, cell in zip("abcd", cells)))
        return readme.least("t", where, by, "FD", tmp_path)
    assert chosen("5 ± 1", "9 ± 1", "8 ± 1") == "a" and chosen("5 ± 2", "9 ± 1", "7.5 ± 1") == "a or c"
    assert chosen("5 ± 2", "8 ± 1", "7.5 ± 1", "20 ± 1") == "a, b or c"
    assert chosen("5 ± 2", "8 ± 1") == "undecided" and chosen("5 ± 2", "9 ± 1", "8 ± 2", where="row=b or c") == "undecided"
    assert chosen("5 ± 1", "5 ± 0.1", "6.5 ± 0.7") == "a or b"
    with pytest.raises(ValueError, match="names 1 rows"): chosen("5 ± 1", "9 ± 1", where="row=a")
    with pytest.raises(ValueError, match="names 2 rows"): chosen("5 ± 1", "9 ± 1", by="kind")
