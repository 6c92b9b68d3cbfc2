"""Each recipe: how many lines the nest changes in somebody's loop, and that it runs, where the code of that loop is at hand.

The folder of checkouts is named by the environment variable NATS_COMPANION_PEERS; a recipe whose peer is not in it is skipped."""
import json
import os
import re
from pathlib import Path

import pytest
from conftest import cells, command

from nats_companion import adoption, items
from nats_companion.prices import read_index

RECIPES = {item.name: item for item in items.select(["recipes"])}


def sources(name: str) -> list[str]: return [c["source"] for c in cells(RECIPES[name].path)]


def peer(name: str) -> str | None:
    "owner/name of the checkout that a recipe borrows from, if any."
    found = set(re.findall(r'borrow\(peers, "([\w.-]+/[\w.-]+)"', "\n".join(sources(name))))
    assert len(found) == ("peers" in RECIPES[name].parameters), f"{name}: its parameter `peers` and what it borrows do not agree"
    return found.pop() if found else None


def loops(name: str) -> dict[str, str]:
    "`plain` and `adopted`, read without running a cell."
    found = {}
    for source in sources(name):
        for loop in ("plain", "adopted"):
            if text := re.match(rf'{loop} = """(.*?)"""', source, re.S): found[loop] = text[1]
    return found


PEERS = {name: repository for name in RECIPES if (repository := peer(name))}


def test_there_are_recipes_and_they_stand_apart():
    assert len(RECIPES) >= 2 and PEERS and set(RECIPES) - set(PEERS)          # one at least needs nobody's checkout
    assert not set(RECIPES) & {item.name for item in items.select(["all"])} and not any(item.headline or item.has_plan for item in RECIPES.values())


@pytest.mark.parametrize("name", RECIPES)
def test_ten_lines_change_at_most(name):
    found = loops(name)
    assert set(found) == {"plain", "adopted"}
    for text in found.values():
        compile(text, name, "exec")
        lines = [line for line in text.splitlines() if line.strip()]
        assert all(len(line) <= 100 for line in lines) and not any(";" in line for line in lines), "lines that hold several would not be counted"
    assert 0 < adoption.changes(**found) <= 10
    assert any("show_diff(plain, adopted)" in s and "assert changes(plain, adopted) <= 10" in s for s in sources(name))


@pytest.mark.parametrize("name", RECIPES)
def test_papermill_reads_the_types_of_its_parameters(name):
    import papermill
    known = papermill.inspect_notebook(str(RECIPES[name].path))
    assert set(known) == set(RECIPES[name].parameters) and not [n for n, told in known.items() if told["inferred_type_name"] in ("None", "", None)]


@pytest.mark.parametrize("name", RECIPES)
def test_runs_at_scale_smoke(name, tmp_path):
    given = []
    if name in PEERS:
        place = Path(os.environ.get(adoption.PEERS) or "nowhere").absolute()
        if not (place/PEERS[name].split("/")[1]).is_dir(): pytest.skip(f"needs a checkout of {PEERS[name]} in the folder that {adoption.PEERS} names")
        given = ["-p", f"peers={place}"]
    done = command("reproduce", name, "--scale", "smoke", "--device", "cpu", "--out", tmp_path, *given)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    files = read_index(tmp_path)["items"][name]["files"]
    assert {f"tables/{name}.csv", f"tables/{name}_verdicts.csv", f"figures/{name}.png"} <= set(files)
    text = (tmp_path/"notebooks"/f"{name}.ipynb").read_text()
    assert "lines change" in text and "Verdict" in text and "FID" not in text
    outputs = [o for c in json.loads(text)["cells"] for o in c.get("outputs", [])]
    assert any("image/png" in o.get("data", {}) for o in outputs) and not any(o["output_type"] == "error" for o in outputs)


def test_says_where_the_peers_are_to_be_had(tmp_path):
    nobody = {k: v for k, v in os.environ.items() if k != adoption.PEERS}
    done = command("reproduce", *PEERS, "--scale", "smoke", "--device", "cpu", "--out", tmp_path, env=nobody)
    assert done.returncode != 0
    for name, repository in PEERS.items():
        said = next(line for line in done.stdout.splitlines() if line.startswith(f"{name} failed: Refused: "))
        assert f"git clone https://github.com/{repository}" in said and "-p peers=DIR" in said
