"""The README's promises: its example runs in a fresh interpreter, and its commands exist."""
import re
import shlex
import subprocess
import sys

from conftest import ROOT, committed_files

README = ROOT/"README.md"


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


def test_quoted_intervals_stand_in_the_report():
    "The README quotes numbers; each must be one that the committed table holds, and the table must be from committed code."
    section = (ROOT/"README.md").read_text().split("## Which reading")[1].split("## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    quoted = re.findall(r"\d+\.\d+ ± \d+\.\d+", "\n".join(rows))
    report = (ROOT/"reports"/"cpu"/"tables"/"tab_schemes.md").read_text()
    assert len(quoted) >= 8
    missing = [q for q in quoted if f" {q} (n = 5)" not in report]
    assert not missing, f"{missing} not in tab_schemes.md: bring the README up to date"
    assert "+changes" not in report and re.search(r"commits? [0-9a-f]{10}(, [0-9a-f]{10})*\*\*", report)


def test_all_quoted_intervals_stand_in_some_report():
    "Whatever the README says with an interval was computed by an item: it stands in a table or in a verdict of the index."
    quoted = re.findall(r"[+−-]?\d+(?:\.\d+)? ± \d+(?:\.\d+)?", README.read_text())
    reports = [(ROOT/p).read_text() for p in committed_files("reports") if p.match("tables/*.md") or p.name == "index.md"]
    known = set(re.findall(r"[+-]?\d+(?:\.\d+)? ± \d+(?:\.\d+)?", "\n".join(reports)))
    known |= {number.lstrip("+-") for number in known}
    missing = [q for q in quoted if q.replace("−", "-") not in known]
    assert len(quoted) >= 20 and not missing, f"{missing} are in no report: bring the README up to date"
