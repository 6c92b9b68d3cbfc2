"""The rates that the items take are those that the committed records of tuning chose: the first of each row's trials on the validation split."""
import csv

import pytest
from conftest import ROOT

from nats_companion.items import find_items

ITEMS = find_items()


def chosen(record: str) -> dict[str, dict]:
    "Row of reports/tuning/`record` -> lr_d, lr_g and, for flow, eta of its best trial."
    with open(ROOT/"reports"/"tuning"/record/"tables"/"tab_tuning.csv", newline="") as file: rows = [row for row in csv.DictReader(file) if row["rank"] == "1"]
    return {row["row"]: {name: float(row[name]) for name in ("lr_d", "lr_g", *(["eta"] if "flow" in row["row"] else []))} for row in rows}


def by_scheme(record: str, loss: str = "") -> dict[str, dict]:
    "Scheme -> the same, from rows called `CTS`, `NTS flow`, .. followed by the loss where the record has several."
    found = chosen(record)
    return {scheme: found[f"{row} {loss}".strip()] for scheme, row in (("CTS", "CTS"), ("NTS", "NTS flow"), ("NATS", "NATS flow"))}


def given(item: str) -> dict: return ITEMS[item].parameters


def test_schemes():
    assert given("tab_schemes")["tuned"] == chosen("schemes") and len(chosen("schemes")) == 8


@pytest.mark.parametrize("item, records", [("tab_relativistic", ["relativistic"]), ("tab_losses", ["relativistic", "losses"])])
def test_losses(item, records):
    found = {f"{scheme} {loss}": rates for record in records for loss in {row.split()[-1] for row in chosen(record)} for scheme, rates in by_scheme(record, loss).items()}
    assert given(item)["tuned"] == {row: found[row] for row in given(item)["tuned"]}
    assert len(given(item)["tuned"]) == {"tab_relativistic": 3*7, "tab_losses": 3*6}[item]  # none is left out


def test_networks():
    records = {"MLP": ("plain",), "MLP, spectral norm": ("relativistic", "gan"), "relation": ("relation",), "DCGAN": ("dcgan",), "BigGAN": ("biggan",)}
    assert given("tab_networks")["tuned"] == {name: by_scheme(*record) for name, record in records.items()}


def test_figure_5():
    found = by_scheme("fig5")
    assert given("fig5")["rates"] == [found["CTS"]["lr_d"], found["CTS"]["lr_g"]]
    for scheme in ("NTS", "NATS"): assert [*given("fig5")["rates_flow"], given("fig5")["eta"]] == [found[scheme][name] for name in ("lr_d", "lr_g", "eta")]


def test_datasets():
    assert given("tab_datasets")["rates"] == by_scheme("relativistic", "gan") and given("tab_datasets")["cifar_rates"] == by_scheme("dcgan")


def test_weights_on_points():
    rows = {"constant": "NTS flow", "geometric": "NATS flow", "reversed": "reversed flow"}
    assert given("tab_cfg")["points_tuned"] == {schedule: chosen("grid")[row] for schedule, row in rows.items()}
