"""The README's promises: its example runs in a fresh interpreter, and its commands exist."""
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from conftest import NBS, ROOT, readme_tool

README, INDEX = ROOT/"README.md", NBS/"index.ipynb"
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


def test_every_number_with_an_interval_names_its_cell_and_is_that_cell():
    "A quotation is `value<!-- table [row] column -->`; the value is computed from the table by `make readme`."
    text = INDEX.read_text()
    assert readme.filled(text, ROOT/"reports") == text, "run `make readme`: a table says something else by now"
    bare = re.findall(r"[+−-]?\d+(?:\.\d+)? ± \d+(?:\.\d+)?(?!<!-- )(?![\d.])", README.read_text())
    assert not bare, f"{bare} do not say which cell of which table they are"
    assert len(readme.QUOTED.findall(text)) >= 40


def test_a_swapped_row_or_sign_is_seen(tmp_path):
    shutil.copytree(ROOT/"reports"/"cpu"/"tables", tmp_path/"cpu"/"tables")
    shutil.copytree(ROOT/"reports"/"gpu"/"tables", tmp_path/"gpu"/"tables")
    text = INDEX.read_text()
    assert readme.filled(text, tmp_path) == text
    def spoilt(name, spoil):
        path = tmp_path/"cpu"/"tables"/f"{name}.csv"
        before = path.read_text()
        path.write_text(spoil(before))
        seen = readme.filled(text, tmp_path) != text
        path.write_text(before)
        return seen
    def swap(a, b): return lambda s: s.replace(a, "\0").replace(b, a).replace("\0", b)
    assert spoilt("tab_schemes", swap("NTS flow,", "NATS flow,"))
    assert spoilt("tab_networks", swap(",CTS,", ",NTS,"))
    assert spoilt("tab_networks_verdicts", lambda s: s.replace("MLP: NTS,MLP: CTS,-", "MLP: NTS,MLP: CTS,"))
    assert not spoilt("tab_schemes", lambda s: s)
    with pytest.raises(ValueError, match="names 0 rows"): readme.cell_of("tab_schemes", "row=NOTS", "FD", tmp_path)
    with pytest.raises(ValueError, match="names 1 rows and the columns \\[\\]"): readme.cell_of("tab_schemes", "row=CTS", "FID", tmp_path)
