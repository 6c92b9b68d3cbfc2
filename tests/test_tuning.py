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


PLAIN = {"spectral_norm": False}


def scores(record: str) -> dict[str, float]:
    "Row of a record -> the validation distance of its best trial."
    with open(ROOT/"reports"/"tuning"/record/"tables"/"tab_tuning.csv", newline="") as file: rows = [row for row in csv.DictReader(file) if row["rank"] == "1"]
    return {row["row"]: float(row["FD-FashionMNIST-classifier"]) for row in rows}


@pytest.mark.parametrize("item, best", [("tab_schemes", "best common"), ("fig6", "CTS, best found"), ("tab_cost", "CTS, best found")])
def test_schemes(item, best):
    tuned = given(item)["tuned"]
    nests = {f"{row}, plain D": rates for row, rates in chosen("common-nested").items()}
    common = chosen("common-centred")["CTS"] | PLAIN | {"regulariser": "centred", "strength": 10.0}
    assert tuned == chosen("schemes") | nests | {best: common} and len(chosen("schemes")) == 8 and len(nests) == 2


def test_no_record_of_the_same_data_and_budget_knows_a_better_common_scheme():
    found = {(record, row): score for record in ("schemes", "plain", "common-plain", "common-lsgan", "common-centred", "relativistic", "losses")
             for row, score in scores(record).items() if row.startswith("CTS")}
    assert len(found) >= 19 and min(found, key=found.get) == ("common-centred", "CTS")


def test_nests_are_better_without_the_penalty_that_the_best_common_scheme_takes():
    for row in ("NTS flow", "NATS flow"): assert scores("common-nested")[row] < scores("common-centred")[row]


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
