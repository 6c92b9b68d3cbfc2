"""The committed results in reports/ are whole: every figure and table, enough seeds, made by committed code with the settings that stand in the notebooks, by code that did what today's does, and small.

An item whose evidence is still to be run is not on an index, and none of this is asked of it."""
import re

import pandas as pd
import pytest

from conftest import NBS, ROOT, committed_files
from nats_companion import agreement, compare, data, items
from nats_companion.fingerprints import Record, ask, kind
from nats_companion.prices import read_index
from nats_companion.runs import config_of, load_runs
from nats_companion.training import ADDED, Config

OUT = ROOT/"reports"/"cpu"
INDEX = read_index(OUT)
ITEMS = items.find_items()
MORE = {"tab_datasets": {"datasets": [*ITEMS["tab_datasets"].parameters["datasets"], "cifar10"]}}                         # left out by default: its files do not come with the clone
MEASURED = [name for name in ITEMS if name in INDEX["items"]]
PAPER = [name for name in MEASURED if ITEMS[name].path.parent == NBS/"paper"]
RECORDS = [OUT, ROOT/"reports"/"gpu", *sorted(path.parent for path in (ROOT/"reports"/"tuning").glob("*/fingerprints.json"))]  # the runs whose code left fingerprints


def test_six_figures_and_thirteen_tables():
    assert [name for name in PAPER if name.startswith("fig")] == [f"fig{n}" for n in range(1, 7)]
    assert len([name for name in PAPER if name.startswith("tab_")]) >= 13
    assert len([name for name in MEASURED if ITEMS[name].shelf == "theory"]) >= 8
    assert set(INDEX["items"]) <= set(ITEMS), "in reports/cpu, but no item"
    assert not INDEX["failed"]


@pytest.mark.parametrize("name", MEASURED)
def test_made_by_committed_code_with_the_settings_of_today(name):
    entry = INDEX["items"][name]
    assert re.fullmatch("[0-9a-f]{10}", entry["commit"]), entry["commit"]                      # no `+changes`, not `unknown`
    today = items.settle(ITEMS[name], "cpu", MORE.get(name))
    asked = {k: v for k, v in today.items() if k not in ("seeds", "out", "device")}
    later = asked.keys() - entry["parameters"].keys()                                          # a parameter that came later may change no run
    assert {k: v for k, v in entry["parameters"].items() if k in asked} == {k: v for k, v in asked.items() if k not in later}
    if later: assert {config.key for config, _ in items.plan(ITEMS[name], today | entry["parameters"])} == set(entry["runs"]), later
    assert entry["claim"] == ITEMS[name].claim
    assert entry["parameters"].get("seeds", 5) >= 5


@pytest.mark.parametrize("name", PAPER)
def test_five_seeds_in_every_row(name):
    keys = INDEX["items"][name]["runs"]
    table = pd.read_csv(OUT/"runs.csv", dtype=dict(key=str)).set_index("key")
    runs = table.loc[keys]                                                                     # every run of the item is in the table
    assert not runs.commit.str.contains("changes|unknown").any()
    runs = runs[runs.split == "test"] if name == "tab_adaptive" else runs                       # which tunes too, with two seeds, on the validation split
    settings = [c for c in vars(Config()) if c != "seed" and c in runs]                        # a field that came later is no column yet,
    runs = runs.assign(**{c: runs[c].fillna(value) for c, value in ADDED.items() if c in runs})  # or has none in the rows of before
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
    assert any("**Verdict" in text for text in agreement.said(notebook)), "no verdict was computed"


def test_evidence_is_light_and_without_checkpoints():
    tracked = committed_files("reports")
    assert sum((ROOT/p).stat().st_size for p in tracked) <= 40e6
    assert not [p for p in tracked if p.suffix in (".safetensors", ".pt", ".pth", ".ckpt", ".pkl")]


def test_table_of_runs_holds_those_of_the_items_and_no_others():
    table = pd.read_csv(OUT/"runs.csv", dtype=dict(key=str))
    assert set(table.key) == {key for entry in INDEX["items"].values() for key in entry["runs"]} and table.key.is_unique


def at_hand(config) -> bool:
    try: data.load(config.dataset, size=config.size or None)
    except ValueError: return False
    return True


@pytest.mark.parametrize("out", RECORDS, ids=lambda p: p.relative_to(ROOT/"reports").as_posix())
def test_todays_code_does_what_the_code_of_the_runs_did(out, tmp_path):
    "Every kind of run, by its fingerprint; the committed file is only read."
    table = load_runs(out)
    found = {}
    for row in table.to_dict("records"): found.setdefault((row["code"], kind(config_of(row)).key), config_of(row))
    record = Record(out/"fingerprints.json", tmp_path/"fingerprints.json")
    there = {pair: config for pair, config in found.items() if at_hand(config)}
    ask(record, [config for (code, _), config in there.items()], progress=False)
    assert not [pair for pair in found if record.get(pair[0], found[pair]) is None], "runs of a kind that left no fingerprint"
    assert not [config for (code, _), config in there.items() if record.same(code, config) is not True], "runs that today's code would make otherwise"
    assert len(there) > 0 or out.name == "gpu"


FAMILIES = {"tab_weights_verdicts": ["part"], "tab_diversity_verdicts": ["question"]}            # tables that hold several: by these columns
# Tables of an earlier edition, of verdicts that were not corrected for their number: to be made again, and never more than these.
UNCORRECTED = {"accelerate_verdicts", "biggan_verdicts", "cfg_verdicts", "mimicry_verdicts", "r3gan_verdicts", "stability_verdicts", "fig5_verdicts",
               "tab_datasets_points_verdicts", "tab_datasets_verdicts", "tab_diversity_verdicts", "tab_eta_verdicts", "tab_networks_verdicts",
               "tab_weights_verdicts"}
TABLES = {path.stem: pd.read_csv(path) for path in sorted((OUT/"tables").glob("*.csv"))}
VERDICTS = {name: table for name, table in TABLES.items() if {"verdict", "compared_with", "half_width"} <= set(table)}


def of_one_family(table: pd.DataFrame) -> bool:
    "Whether the verdicts of `table` are what Holm's correction leaves of them."
    again = compare.family(table.drop(columns=["p_holm", "decidable"]))
    same = [again[name].tolist() == table[name].tolist() for name in ("verdict", "alone")]
    return all(same) and ((again.p_holm - table.p_holm).abs().max() < 1e-9 or table.p_holm.isna().all())


@pytest.mark.parametrize("name", VERDICTS)
def test_verdicts_of_a_table_are_corrected_for_their_number(name):
    table = VERDICTS[name][VERDICTS[name].verdict != "no common range"]                           # fig6: nothing was compared
    if name in UNCORRECTED:
        assert "p_holm" not in table, f"{name} is corrected: take it off the list"
        return
    assert {"p", "p_holm", "alone", "decidable", "seeds"} <= set(table)
    parts = [part for _, part in table.groupby(FAMILIES[name])] if name in FAMILIES else [table]
    assert all(of_one_family(part) for part in parts)
    decided = table[table.verdict.isin(["better", "worse"])]
    assert (decided.seeds >= compare.DECIDING).all() and (decided.p_holm <= 0.05).all()


def test_a_verdict_left_uncorrected_is_found():
    rows = [compare.difference([shift + d for d in (-1., 1., 0., .5, -.5)], [0.]*5) for shift in (-1.2, 0., 0.)]
    table = compare.family(pd.DataFrame(rows))
    assert of_one_family(table) and table.verdict[0] == "undecided" and table.alone[0] == "better"
    assert not of_one_family(table.assign(verdict=table.alone))
    assert not of_one_family(table.assign(p_holm=table.p))
