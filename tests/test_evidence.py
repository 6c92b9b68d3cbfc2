"""The committed results in reports/cpu are whole: every figure and table, enough seeds, made by committed code with the settings that stand in the notebooks, and small."""
import re

import pandas as pd
import pytest

from conftest import ROOT, committed_files
from nats_companion.agreement import said
from nats_companion.items import find_items, resolve
from nats_companion.prices import read_index
from nats_companion.training import Config

OUT = ROOT/"reports"/"cpu"
INDEX = read_index(OUT)
ITEMS = find_items()
MORE = {"tab_datasets": {"datasets": [*ITEMS["tab_datasets"].parameters["datasets"], "cifar10"]}}                         # left out by default: its files do not come with the clone
MEASURED = [name for name in ITEMS if name in INDEX["items"]]                               # a new item is welcome before it has evidence
PAPER = [name for name in MEASURED if ITEMS[name].shelf == "paper"]


def test_six_figures_thirteen_tables_and_the_theory():
    assert [name for name in PAPER if name.startswith("fig")] == [f"fig{n}" for n in range(1, 7)]
    assert len([name for name in PAPER if name.startswith("tab_")]) >= 13
    assert [name for name in MEASURED if name not in PAPER] == [name for name, item in ITEMS.items() if item.shelf == "theory"]
    assert set(INDEX["items"]) == set(MEASURED), "evidence of items that are no more"
    assert not INDEX["failed"]


@pytest.mark.parametrize("name", MEASURED)
def test_made_by_committed_code_with_the_settings_of_today(name):
    entry = INDEX["items"][name]
    assert re.fullmatch("[0-9a-f]{10}", entry["commit"]), entry["commit"]                      # no `+changes`, not `unknown`
    today = resolve([ITEMS[name]], "cpu", parameters=MORE.get(name))[name]
    assert {k: v for k, v in entry["parameters"].items() if k in today and k not in ("seeds", "out", "device")} == {k: v for k, v in today.items() if k not in ("seeds", "out", "device")}
    assert entry["claim"] == ITEMS[name].claim
    assert entry["parameters"].get("seeds", 5) >= 5


@pytest.mark.parametrize("name", PAPER)
def test_five_seeds_in_every_row(name):
    keys = INDEX["items"][name]["runs"]
    table = pd.read_csv(OUT/"runs.csv", dtype=dict(key=str)).set_index("key")
    runs = table.loc[keys]                                                                     # every run of the item is in the table
    assert not runs.commit.str.contains("changes|unknown").any()
    settings = [c for c in vars(Config()) if c != "seed"]
    assert not keys or runs.groupby(settings, dropna=False).seed.nunique().min() >= 5


@pytest.mark.parametrize("name", MEASURED)
def test_files_are_there_in_every_form(name):
    files = INDEX["items"][name]["files"]
    tracked = {str(p) for p in committed_files("reports/cpu")}
    assert not [f for f in files if f"reports/cpu/{f}" not in tracked]
    for folder, forms in (("figures", {".png", ".svg"}), ("tables", {".csv", ".md", ".tex"})):
        stems = {f.rsplit(".", 1)[0] for f in files if f.startswith(folder)}
        assert all(f"{stem}{form}" in files for stem in stems for form in forms)
    notebook = OUT/"notebooks"/f"{name}.ipynb"
    assert notebook.stat().st_size <= 1_000_000
    assert any("**Verdict" in text for text in said(notebook)), "no verdict was computed"


def test_evidence_is_light_and_without_checkpoints():
    tracked = committed_files("reports")
    assert sum((ROOT/p).stat().st_size for p in tracked) <= 40e6
    assert not [p for p in tracked if p.suffix in (".safetensors", ".pt", ".pth", ".ckpt", ".pkl")]


def test_table_of_runs_holds_those_of_the_items_and_no_others():
    table = pd.read_csv(OUT/"runs.csv", dtype=dict(key=str))
    assert set(table.key) == {key for entry in INDEX["items"].values() for key in entry["runs"]} and table.key.is_unique
