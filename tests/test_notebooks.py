"""Every notebook runs: those of the library as they stand, the paper's items and the theory's chapters through `reproduce` at scale smoke."""
import json
import os

import nbdev.test  # the module: its function test_nb would be collected as a test
import pytest
from conftest import NBS, ROOT, notebooks

from nats_companion import bench, core, items, jobs, repro, runs

ITEMS = {item.name: item for item in items.select(["all"])}  # recipes need what is not in the clone: test_recipes.py
THROUGH_REPRODUCE = [NBS/"experiments"/"run.ipynb", *(item.path for item in items.find_items().values())]
LIBRARY = [p for p in notebooks() if p not in THROUGH_REPRODUCE]
MODULES = [p for p in LIBRARY if p.parent == NBS and p.name[:2].isdigit()]
ROOMS = [p for p in LIBRARY if p.parent in (NBS/"data", NBS/"parts")]


@pytest.mark.parametrize("path", LIBRARY, ids=lambda p: p.relative_to(NBS).as_posix())
def test_library_notebook(path):
    passed, _ = nbdev.test.test_nb(path, skip_flags=["notest", "slow"])
    assert passed, f"{path.name} failed; see its traceback above"


def test_every_module_has_a_notebook():
    assert len(MODULES) >= 13
    assert {p.stem.split("_", 1)[1] for p in MODULES} | {p.stem[2:] for p in ROOMS} == {p.stem for p in (ROOT/"nats_companion").glob("*.py") if not p.stem.startswith("_")}
    chapters = {name for name, item in ITEMS.items() if item.shelf == "theory"}
    assert tuple(p.stem[2:] for p in sorted((NBS/"benchmarks").glob("[0-9]_*.ipynb"))) == bench.NOTEBOOKS  # and each of them a module, or it could not be imported
    assert len(chapters) == 9 and chapters == {p.stem for p in (ROOT/"nats_companion"/"theory").glob("*.py") if not p.stem.startswith("_")}


def test_smoke_succeeds(smoke):
    process, out = smoke
    assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
    index = json.loads((out/"index.json").read_text())
    assert set(index["items"]) == set(ITEMS) and index["failed"] == [] and index["scale"] == "smoke"
    assert index["commit"] == core.commit() and {"torch", "numpy", "papermill"} <= set(index["versions"])
    assert not (out/"notebooks"/"failed").exists()


@pytest.mark.parametrize("name", ITEMS)
class TestItem:
    @pytest.fixture
    def entry(self, smoke, name): return json.loads((smoke[1]/"index.json").read_text())["items"][name]

    @pytest.fixture
    def executed(self, smoke, name): return json.loads((smoke[1]/"notebooks"/f"{name}.ipynb").read_text())

    def test_makes_figures_or_tables(self, smoke, name, entry):
        made = [smoke[1]/f for f in entry["files"]]
        assert any(p.suffix in (".png", ".csv") for p in made), f"{name} made no figure and no table"
        assert all(p.stat().st_size > 0 for p in made)
        for picture in (p for p in made if p.suffix == ".png"):
            assert picture.stat().st_size <= 200_000 and picture.with_suffix(".svg").exists()
        for table in (p for p in made if p.suffix == ".csv"):
            assert table.with_suffix(".md").exists() and table.with_suffix(".tex").exists()

    def test_shows_its_figures(self, entry, executed):
        pictures = [o for c in executed["cells"] for o in c.get("outputs", []) if "image/png" in o.get("data", {})]
        assert bool(pictures) == any(f.endswith(".png") for f in entry["files"])

    def test_costs_are_recorded(self, entry):
        assert 0 < entry["cpu_seconds"] < 3600 and entry["wall_seconds"] > 0 and entry["commit"] == core.commit()

    def test_parameters_took_effect(self, smoke, name, entry, executed):
        item = ITEMS[name]
        asked = items.settle(item, "smoke")
        tags = [c["metadata"].get("tags", []) for c in executed["cells"]]
        assert ["injected-parameters"] in tags and tags.index(["injected-parameters"]) == tags.index(["parameters"]) + 1
        injected = items.literals("".join(executed["cells"][tags.index(["injected-parameters"])]["source"]))
        assert injected == asked | dict(device="cpu", out=os.path.relpath(smoke[1], item.path.parent))
        assert entry["parameters"] == asked and asked["scale"] == "smoke"

    def test_shows_where_it_comes_from(self, smoke, entry, executed):
        printed = json.dumps(executed, ensure_ascii=False) + "".join((smoke[1]/f).read_text() for f in entry["files"] if f.endswith((".md", ".svg")))
        assert "scale smoke" in printed and core.commit().split("+")[0] in printed

    def test_says_its_verdict(self, executed):
        assert any("Verdict" in json.dumps(c.get("outputs", [])) for c in executed["cells"]), "no verdict was computed"

    def test_is_fit_to_share(self, smoke, name, executed):
        text = (smoke[1]/"notebooks"/f"{name}.ipynb").read_text()
        assert str(ROOT) not in text and len(text) <= jobs.BULK + 10_000
        assert not any(o["output_type"] == "error" for c in executed["cells"] for o in c.get("outputs", []))
        assert not any("widget-view" in json.dumps(c.get("outputs", [])) for c in executed["cells"])

    def test_plans_without_running(self, smoke, name, entry):
        planned = items.plan(ITEMS[name], items.settle(ITEMS[name], "smoke"))
        assert list(items.configs(planned)) == entry["runs"]

    @pytest.mark.parametrize("scale", items.SCALES)
    def test_plan_is_valid_at_every_scale(self, name, scale):
        planned = items.plan(ITEMS[name], items.settle(ITEMS[name], scale))
        assert bool(planned) == ITEMS[name].has_plan

    def test_papermill_reads_the_types_of_its_parameters(self, name):
        import papermill
        known = papermill.inspect_notebook(str(ITEMS[name].path))
        assert set(known) == set(ITEMS[name].parameters)
        assert not [n for n, told in known.items() if told["inferred_type_name"] in ("None", "", None)]


@pytest.mark.parametrize("scale", items.SCALES)
def test_curves_and_costs_are_of_the_runs_of_the_table(scale):
    "tab_schemes, fig6 and tab_cost each state the same settings; where one of them was changed alone, runs would no longer be shared."
    keys = {name: set(items.configs(items.plan(ITEMS[name], items.settle(ITEMS[name], scale)))) for name in ("tab_schemes", "fig6", "tab_cost")}
    assert keys["fig6"] == keys["tab_cost"] < keys["tab_schemes"]


def test_exactly_the_planned_runs_were_trained(smoke):
    "Had an item's notebook ignored its injected parameters, it would have trained runs of its own."
    trained = {p.parent.name for p in (smoke[1]/"runs").glob("*/result.json")}
    entries = json.loads((smoke[1]/"index.json").read_text())["items"].values()
    assert trained == {key for e in entries for key in e["runs"]} and trained


def test_runs_table(smoke):
    table = runs.load_runs(smoke[1])
    assert {"key", "scheme", "headline", "dataset", "loss", "seed", "steps", "cpu_seconds", "commit", "device"} <= set(table.columns)
    assert table.key.is_unique and set(table.device) == {"cpu"}
    assert (table.cost_steps <= table.steps).all() and (table.cost_steps > table.steps - 100).all()


def test_second_call_runs_nothing(smoke):
    _, out = smoke
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file() and p.suffix in (".ipynb", ".png", ".safetensors") or p.name == "result.json"}
    index = repro.reproduce(list(ITEMS), "smoke", out=out, device="cpu", progress=False)
    assert {p: p.stat().st_mtime_ns for p in before} == before and len(index["calls"]) == 1 and len(before) > 10
