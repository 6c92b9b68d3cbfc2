"""A run serves as long as the code does the same: a module written otherwise keeps it, one that trains otherwise by one per cent does not."""
import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import PATIENCE, ROOT

from nats_companion import core, runs
from nats_companion.items import sweep

PLAN = sweep(dict(dataset="ring", size=0, latent=4, width=32, spectral_norm=False, loss="cfg", nest=3, pool=32, epochs=1, batch=16, eta=0.05, lr_d=1e-3, lr_g=1e-3, steps=30, evaluations=1, samples=100))
LOOK = """import json, sys
from nats_companion import core, runs
from nats_companion.training import Config
out, fields = sys.argv[1], json.loads(sys.argv[2])
config = Config(**fields)
before = runs.state_of(config.key, out)
runs.ask(runs.record_of(out), [config], progress=False)
print(json.dumps([core.code_digest(*core.RUN_MODULES), before, runs.state_of(config.key, out)]))"""


@pytest.fixture
def out(tmp_path):
    runs.train(PLAN, tmp_path/"out", "cpu", progress=False)
    return tmp_path/"out"


def state_under(changes: dict[str, tuple[str, str]], out, folder) -> list:
    "[digest, state before today's code was asked, state after], by a copy of the package in which a text of each module was exchanged."
    shutil.copytree(ROOT/"nats_companion", folder/"nats_companion", ignore=shutil.ignore_patterns("__pycache__"))
    for module, (old, new) in changes.items():
        path = folder/"nats_companion"/f"{module}.py"
        assert path.read_text().count(old) >= 1, f"{module} holds no {old!r}: bring this test up to date"
        core.write_text(path, path.read_text().replace(old, new))
    done = subprocess.run([sys.executable, "-c", LOOK, str(out), json.dumps(PLAN[0].config.to_dict())], capture_output=True, text=True, timeout=PATIENCE,
                          env=os.environ | dict(PYTHONPATH=str(folder), NATS_COMPANION_DATA=str(core.data_path())), cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


STEP = "return x + eta*weight*field(x)"


@pytest.mark.parametrize("written, after", [("factor = weight*eta\n    return x + factor*field(x)", "done"), ("return x + 1.01*eta*weight*field(x)", "stale")], ids=["in other words", "one per cent longer"])
def test_a_change_of_the_step_is_judged_by_what_it_does(out, tmp_path, written, after):
    digest, before, now = state_under(dict(cfg=(STEP, written)), out, tmp_path)
    assert digest != core.code_digest(*core.RUN_MODULES) and (before, now) == ("open", after)


def test_comments_and_layout_ask_no_question(out, tmp_path):
    digest, before, now = state_under(dict(cfg=(STEP, "# a comment\n    return (x\n            + eta*weight*field(x))")), out, tmp_path)
    assert digest == core.code_digest(*core.RUN_MODULES) and (before, now) == ("done", "done")
