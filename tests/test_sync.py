"""Notebooks, modules and README say the same thing, and the house rules that a machine can check are kept."""
import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import NBS, ROOT, cells, committed_files, notebooks, readme_tool

from nats_companion import core

ROOM = re.compile(r"(\d\d)([a-z]?)_(.+)")  # 11_cost is followed by 11b_demand
MODULES = {m[3]: int(m[1]) + (ord(m[2]) - ord("a"))/100 if m[2] else int(m[1]) for p in NBS.glob("*.ipynb") if (m := ROOM.fullmatch(p.stem))}
CHAPTERS = {f"theory.{p.stem[2:]}": 100 + int(p.stem[0]) for p in (NBS/"theory").glob("[0-9]_*.ipynb")}  # upstairs of the whole library
BENCHMARKS = {f"benchmarks.{p.stem[2:]}": 200 + int(p.stem[0]) for p in (NBS/"benchmarks").glob("[0-9]_*.ipynb")}
SHELF = {f"shelf.{p.stem[2:]}": 1 + int(p.stem[0])/10 for p in (NBS/"networks").glob("[0-9]_*.ipynb")}  # between data and the desk that hands it out
PARTS = {p.stem[2:]: 7 + int(p.stem[0])/10 for p in (NBS/"parts").glob("[0-9]_*.ipynb")}  # between the nest and training, which puts them together
DATA = {p.stem[2:]: int(p.stem[0])/10 for p in (NBS/"data").glob("[0-9]_*.ipynb")}  # between core and data, which hands them on
ORDER = MODULES | DATA | SHELF | PARTS | CHAPTERS | BENCHMARKS
by_name = lambda p: p.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    "A throw-away copy of notebooks and modules in which the modules were deleted and everything was exported and cleaned anew."
    folder = tmp_path_factory.mktemp("copy")
    for path in committed_files("nbs", "nats_companion", "settings.ini", "pyproject.toml"):
        (folder/path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT/path, folder/path)
    for path in (folder/"nats_companion").rglob("*.py"): path.unlink()
    outside_tests = {k: v for k, v in os.environ.items() if k != "IN_TEST"}  # nbdev sets it while it tests a notebook, and then exports nothing
    for name in ("nbdev_export", "nbdev_clean"):
        done = subprocess.run([str(Path(sys.executable).parent/name)], cwd=folder, capture_output=True, text=True, env=outside_tests)
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
    return folder


@pytest.mark.parametrize("part", ["nbs", "nats_companion"])
def test_export_and_clean_change_nothing(copy, part):
    here = set(committed_files(part))
    there = {p.relative_to(copy) for p in (copy/part).rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert here == there, "files without a notebook, or notebooks never exported: run `make export`"
    differ = [str(p) for p in sorted(here) if (ROOT/p).read_bytes() != (copy/p).read_bytes()]
    assert not differ, f"{differ} differ; run `make export clean-notebooks` and never edit nats_companion/ by hand"


@pytest.mark.parametrize("path", notebooks(), ids=by_name)
def test_notebook_is_clean(path):
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    ids = [c["id"] for c in notebook.cells]
    assert len(ids) == len(set(ids))
    assert all(not c.outputs and c.execution_count is None for c in notebook.cells if c.cell_type == "code")


@pytest.mark.parametrize("path", notebooks(), ids=by_name)
def test_title_cell(path):
    "`# Name` and `> one-line summary`, nothing else: the summary becomes the module's docstring."
    lines = [line for line in "".join(cells(path, "markdown")[0]["source"]).splitlines() if line]
    assert len(lines) == 2 and lines[0].startswith("# ") and lines[1].startswith("> ")


@pytest.mark.parametrize("path", [p for p in notebooks() if p.parent.name in ("paper", "theory", "recipes", "experiments")], ids=by_name)
def test_parameters_survive_cleaning(copy, path):
    tags = [t for c in cells(copy/path.relative_to(ROOT)) for t in c["metadata"].get("tags", [])]
    assert tags.count("parameters") == 1 and (path.parent.name == "experiments" or tags.count("scales") == 1)


@pytest.mark.parametrize("path", [p for p in notebooks() if p.parent.name in ("paper", "recipes", "experiments")], ids=by_name)
def test_item_notebooks_export_nothing(path):
    assert not any(c["source"].startswith("#| export") or "default_exp" in c["source"] for c in cells(path))


def test_one_notebook_per_module():
    named = [m[1] for p in notebooks() for c in cells(p) if (m := re.match(r"#\| *default_exp +(\S+)", c["source"]))]
    assert len(named) == len(set(named)) >= 21


@pytest.mark.parametrize("path", [p for p in notebooks() if p.name[0].isdigit()], ids=by_name)
def test_export_directive_comes_first(path):
    "A comment above `#| export` would silently un-export the cell."
    for c in cells(path):
        lines = c["source"].splitlines()
        assert not any(line.startswith("#| export") for line in lines[1:])


def imports(module: str) -> set[str]:
    "The modules of this package that `module` imports, anywhere in its source."
    found = set()
    package = ["nats_companion", *module.split(".")[:-1]]
    for node in ast.walk(ast.parse((ROOT/"nats_companion"/f"{module.replace('.', '/')}.py").read_text())):
        if isinstance(node, ast.ImportFrom):
            target = ".".join([*package[:len(package) + 1 - node.level], *filter(None, [node.module])]) if node.level else node.module
            if target.split(".")[0] != "nats_companion": continue
            inner = target.removeprefix("nats_companion").strip(".")
            found |= {inner} if inner in ORDER else {f"{inner}.{alias.name}".strip(".") for alias in node.names}
        if isinstance(node, ast.Import): found |= {a.name.removeprefix("nats_companion.") for a in node.names if a.name.startswith("nats_companion.")}
    return found - {"__version__"}


@pytest.mark.parametrize("module", ORDER)
def test_imports_point_downstairs(module):
    upstairs = {m for m in imports(module) if ORDER[m] >= ORDER[module]}
    assert not upstairs, f"{module} imports {upstairs}, which come after it"


def test_code_digest_covers_what_a_run_depends_on():
    needed, edge = set(), {"training"}
    while edge:
        needed |= edge
        edge = {m for e in edge for m in imports(e)} - needed
    assert needed == set(core.RUN_MODULES)


def test_readme_is_the_rendered_index():
    tool = readme_tool()
    assert (ROOT/"README.md").read_text() == tool.render(NBS/"index.ipynb"), "run `make readme`"


def test_map_of_notebooks_is_complete():
    tool = readme_tool()
    assert tool.notebook_map(NBS) in [c["source"] for c in cells(NBS/"index.ipynb", "markdown")], "run `make readme`"
    assert all(f"({p.relative_to(NBS).as_posix()})" in tool.notebook_map(NBS) for p in notebooks() if p.parent.name != "paper" and p.name[0].isdigit())


def test_new_item_asks_for_no_edit_of_the_readme(tmp_path):
    tool = readme_tool()
    shutil.copytree(NBS, tmp_path/"nbs")
    shutil.copy(NBS/"paper"/"fig1.ipynb", tmp_path/"nbs"/"paper"/"tab_new.ipynb")
    assert tool.notebook_map(tmp_path/"nbs") == tool.notebook_map(NBS)


def test_reports_page_is_up_to_date_and_knows_every_folder():
    page = (ROOT/"reports"/"README.md").read_text()
    assert page == readme_tool().reports_page(ROOT/"reports"), "run `make readme`"
    folders = {p.parts[1] for p in committed_files("reports") if len(p.parts) > 2}
    assert folders == set(re.findall(r"^\| \[(\w+)\]\(\1\) \|", page, flags=re.M)), "say in .ci/readme.py what the folder holds"


def test_reports_page_lists_what_left_files_and_nothing_else(tmp_path):
    files = ["figures/fig9.png", "tables/fig9.md", "tables/fig9_verdicts.md", "notebooks/fig9.ipynb"]
    entry = dict(claim="A | claim", parameters=dict(seeds=5), commit="abc", runs=["k1", "k2"], cpu_seconds=930.0)
    index = dict(items={"fig9": entry | dict(files=files), "tab_lost": entry | dict(files=["tables/tab_lost.md"])}, provenance=dict(device_name="Y", device="cpu"))
    for file in ["index.md", *files]: core.write_text(tmp_path/"cpu"/file, "# Cpu\n\n### fig9\n")
    core.write_text(tmp_path/"cpu"/"runs.csv", "key,device,device_name,commit,cpu_seconds,wall_seconds,evaluation_seconds\nk1,cpu,Y,abc,100,101,20\nk2,cuda,X,abd,500,600,10\n")
    for scale in ("cpu", "gpu"): core.write_json(tmp_path/scale/"index.json", index)
    page = readme_tool().reports_page(tmp_path)
    seconds = "10 min GPU, 7 min CPU"                                                       # 600 + 10; 930 - 510
    assert f"1 item, 5 seeds, 2 runs, {seconds}. Runs on X (cuda), Y (cpu), commits abc, abd. Notebooks on Y (cpu), commit abc." in page
    row = ['<img src="cpu/figures/fig9.png" width="160" alt="fig9">', r"**[fig9](cpu/index.md#fig9)** A \| claim", "5", "2", seconds, "[table](cpu/tables/fig9.md), [verdicts](cpu/tables/fig9_verdicts.md)",
           "[figure](cpu/figures/fig9.png)", "[notebook](cpu/notebooks/fig9.ipynb)"]
    assert f"| {' | '.join(row)} |" in page
    assert not any(words in page for words in ("tab_lost", "## Scale gpu", "## Tuning", "## Benchmarks", "(records)"))


def targets(text: str) -> list[str]:
    "Where the links and pictures of a Markdown text lead within the clone; what looks like a link in code or in a formula is none."
    text = re.sub(r"```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$", "", text, flags=re.S)
    return [t for t in re.findall(r"\]\(([^)\s]+)\)|\bsrc=\"?([^\s\">]+)", text) for t in t if t and "://" not in t]


def test_links_are_found():
    assert targets("[a](b.md#c) ![d](e.png), [f](#g) <img src=\"h.png\" width=1><img src=i.png> [j](https://k) `[l](m)` $E[n](o)$") == ["b.md#c", "e.png", "#g", "h.png", "i.png"]


def anchors(text: str) -> set[str]:
    "The anchors that GitHub gives to the headings of a Markdown text."
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ +(.+?) *$", text, flags=re.M)}


def markdown(path: Path) -> str:
    return path.read_text() if path.suffix == ".md" else "\n\n".join(c["source"] for c in cells(path, "markdown"))


PAGES = [ROOT/p for p in committed_files("*.md") if p.match("README.md") or p.match("index.md")]
PUBLISHED = [ROOT/p for p in committed_files("reports") if p.suffix == ".ipynb"]


@pytest.mark.parametrize("path", PAGES + notebooks() + PUBLISHED, ids=by_name)
def test_links_lead_somewhere(path):
    "To a file that is committed, or a folder of such, and to a heading that is there."
    committed = {q for p in committed_files() for q in (p, *p.parents)}
    wrong = []
    for target in targets(markdown(path)):
        file, _, heading = target.partition("#")
        place = Path(os.path.relpath(path.parent/file, ROOT)) if file else path.relative_to(ROOT)
        if place not in committed or heading and heading not in anchors(markdown(ROOT/place)): wrong.append(target)
    assert not wrong, f"{wrong} lead nowhere"
    assert path not in (ROOT/"README.md", NBS/"index.ipynb") or len(targets(markdown(path))) > 15


def test_committed_files_name_no_place():
    "No absolute path of somebody's machine, and no address of a package index."
    wrong = re.compile(r"/(?:home|Users|root|work)/\w|file://|\bindex-url\b")
    texts = [p for p in committed_files() if p.suffix in (".py", ".ipynb", ".md", ".txt", ".toml", ".ini", ".json", ".csv", "") and p.parts[0] != "LICENSE" and p.parts[0] != "tests"]
    found = [str(p) for p in texts if wrong.search((ROOT/p).read_text(errors="ignore"))]
    assert len(texts) > 30 and not found
