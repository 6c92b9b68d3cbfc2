"""The command line under fire: refusals, failing runs, kills and Ctrl-C. Items here are small ones of our own; runs are real runs on the ring."""
import json
import os
import signal
import subprocess
import time

import pytest
from conftest import CLI, command

from nats_companion import core, repro

PARAMETERS = 'scale = "cpu"\nseeds = 2\nout = ""\ndevice = "auto"\nsteps = 60\nbackends = [""]'
SCALES = 'SCALES = {"smoke": {"steps": 20}, "cpu": {}, "gpu": {}, "paper": {}}'
PLAN = """from nats_companion.repro import sweep
plan = sweep(dict(dataset="ring", size=0, latent=4, width=32, spectral_norm=False, loss="cfg", nest=5, pool=64, epochs=1, batch=32, lr_d=1e-3, evaluations=2, samples=200, steps=steps),
             compile=backends, seed=range(seeds))"""
USE = """from nats_companion import repro
runs = repro.collect(plan, out, device, progress=False)
repro.save_table(repro.readable(repro.summarise(runs, ["steps"], ["mode_divergence"])), out, "tab_ring")"""
RUN = """from pathlib import Path
from nats_companion.training import Config, run
for fields in configs:
    config = Config(**fields)
    folder = Path(out)/"runs"/config.key
    print("resumed" if (folder/"checkpoint.safetensors").exists() else "started")
    run(config, folder, device, progress=False, checkpoint_seconds=0.1)"""


def write_notebook(path, title, **tagged):
    made = [dict(cell_type="markdown", id="title", metadata={}, source=title)]
    made += [dict(cell_type="code", id=tag, metadata=dict(tags=[tag]), execution_count=None, outputs=[], source=source) for tag, source in tagged.items()]
    core.write_json(path, dict(cells=made, metadata=dict(kernelspec=dict(name="python3", display_name="python3", language="python")), nbformat=4, nbformat_minor=5))


@pytest.fixture
def folder(tmp_path):
    "A notebooks folder with the items tab_ring and plain."
    nbs = tmp_path/"nbs"
    write_notebook(nbs/"paper"/"tab_ring.ipynb", "# Ring\n\n> Runs on the ring", parameters=PARAMETERS, scales=SCALES, plan=PLAN, use=USE)
    write_notebook(nbs/"paper"/"plain.ipynb", "# Plain\n\n> Needs no run", parameters=PARAMETERS, scales=SCALES, use="print(steps)")
    write_notebook(nbs/"experiments"/"run.ipynb", "# Run", parameters="configs = []\nout = ''\ndevice = 'cpu'", train=RUN)
    return nbs


def start(folder, out, *words):
    "Start `reproduce` in a process group of its own."
    words = ["reproduce", "tab_ring", *words, "--notebooks", folder, "--out", out, "--device", "cpu"]
    return subprocess.Popen([CLI, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))  # a shell's background job would ignore Ctrl-C, and so would its children


def wait_for(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


REFUSALS = [
    (["reproduce", "tab_rnig"], "Did you mean 'tab_ring'?"),
    (["show", "plian"], "Did you mean 'plain'?"),
    (["reproduce", "--scale", "papre"], "Did you mean 'paper'?"),
    (["reproduce", "-p", "stpes=3"], "Did you mean 'steps'?"),
    (["reproduce", "-p", "steps=3.5"], "steps=3.5 has the wrong type (float); give a int"),
    (["reproduce", "-p", "steps=True"], "has the wrong type (bool)"),
    (["reproduce", "-p", "steps=many"], "has the wrong type (str)"),
    (["reproduce", "-p", "backends=[1]"], "has the wrong type (list)"),
    (["reproduce", "-p", "steps"], "not of the form name=value"),
    (["reproduce", "-p", "scale=smoke"], "use --scale"),
    (["reproduce", "-p", "steps=3"], "less than one nest"),
    (["reproduce", "--seeds", "0"], "seeds=0 is not allowed"),
    (["reproduce", "--jobs", "-1"], "jobs=-1 is not allowed"),
    (["reproduce", "--device", "cdua"], "Did you mean 'cuda'"),
]


@pytest.mark.parametrize("words, expected", REFUSALS, ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_refused_before_anything_starts(folder, tmp_path, capsys, words, expected):
    from nats_companion.cli import main
    out = tmp_path/"out"
    status = main([*words, "--notebooks", str(folder), *(["--out", str(out)] if words[0] == "reproduce" else [])])
    message = capsys.readouterr().err
    assert status == 2 and expected in message and len(message.splitlines()) == 1
    assert not out.exists()


def test_unknown_flag_is_refused():
    refused = command("reproduce", "--sacle", "smoke")
    assert refused.returncode == 2 and "--sacle" in refused.stderr and "Traceback" not in refused.stderr


def test_cuda_is_refused_where_there_is_none(folder, tmp_path, capsys):
    import torch
    if torch.cuda.is_available(): pytest.skip("there is a CUDA device")
    from nats_companion.cli import main
    assert main(["reproduce", "--device", "cuda", "--notebooks", str(folder), "--out", str(tmp_path/"out")]) == 2
    assert "torch sees no CUDA device" in capsys.readouterr().err


def test_list_is_quick():
    "The fastest of five, since a busy machine makes any one of them slow."
    def seconds():
        begin = time.perf_counter()
        done = command("list")
        assert done.returncode == 0 and "fig4" in done.stdout
        return time.perf_counter() - begin
    assert min(seconds() for _ in range(5)) <= 0.5


def test_show_names_parameters_and_notebook():
    shown = command("show", "fig4").stdout
    assert "nbs/paper/fig4.ipynb" in shown and "parameter" in shown and all(scale in shown for scale in repro.SCALES)


def test_dry_run_writes_nothing(folder, tmp_path):
    done = command("reproduce", "--scale", "smoke", "--dry-run", "--notebooks", folder, "--out", tmp_path/"out")
    assert done.returncode == 0 and "2 different runs to train" in done.stdout and "2 item notebooks to execute" in done.stdout
    assert not (tmp_path/"out").exists()


def test_a_failing_run_is_reported_and_costs_nobody_else(folder, tmp_path):
    out = tmp_path/"out"
    words = ["reproduce", "--scale", "smoke", "--seeds", 1, "--jobs", 1, "-p", "backends=['no-such-backend', '']", "--notebooks", folder, "--out", out, "--device", "cpu"]
    done = command(*words)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "tab_ring was not executed: 1 of its 2 runs failed." in done.stdout and "(compile=no-such-backend)" in done.stdout and "nats-companion reproduce tab_ring --scale smoke --seeds 1" in done.stdout
    assert len(repro.load_runs(out)) == 1                                               # its sibling in the same notebook finished
    index = repro.read_index(out)
    assert set(index["items"]) == {"plain"} and len(index["failed"]) == 1               # and so did the other item
    assert not (out/"notebooks"/"tab_ring.ipynb").exists() and list((out/"notebooks"/"failed").glob("runs-*.ipynb"))
    again = command(*words[:7], "--notebooks", folder, "--out", out, "--device", "cpu")   # without the bad parameter all is there already
    assert again.returncode == 0 and "0 different runs to train" in again.stdout and repro.read_index(out)["failed"] == []


def test_a_failing_item_is_reported_and_its_old_output_kept(folder, tmp_path):
    out = tmp_path/"out"
    arguments = dict(items=["plain"], scale="smoke", out=out, device="cpu", notebooks=folder, progress=False)
    repro.reproduce(**arguments)
    good = (out/"notebooks"/"plain.ipynb").read_text()
    write_notebook(folder/"paper"/"plain.ipynb", "# Plain\n\n> Fails now", parameters=PARAMETERS, scales=SCALES, use="1/0")
    failed = repro.reproduce(**arguments)["failed"]
    assert len(failed) == 1 and "plain failed: ZeroDivisionError: division by zero" in failed[0] and "failed/plain.ipynb" in failed[0]
    assert (out/"notebooks"/"plain.ipynb").read_text() == good and "ZeroDivisionError" in (out/"notebooks"/"failed"/"plain.ipynb").read_text()


def same_run(one, other, key):
    "Whether two folders hold the same run, bit for bit."
    import torch
    states = [core.load_tensors(out/"runs"/key/"state.safetensors") for out in (one, other)]
    results = [json.loads((out/"runs"/key/"result.json").read_text()) for out in (one, other)]
    histories = [[{k: v for k, v in row.items() if "seconds" not in k} for row in r["history"]] for r in results]
    same_tensors = states[0][0].keys() == states[1][0].keys() and all(torch.equal(v, states[1][0][k]) for k, v in states[0][0].items())
    return same_tensors and states[0][1] == states[1][1] and histories[0] == histories[1] and results[0]["metrics"] == results[1]["metrics"]


def descendants(pid) -> set[int]:
    "The processes below `pid`."
    pairs = [tuple(map(int, line.split())) for line in subprocess.run(["ps", "-eo", "ppid=,pid="], capture_output=True, text=True).stdout.splitlines()]
    found, edge = set(), {pid}
    while edge := {child for parent, child in pairs if parent in edge} - found: found |= edge
    return found


def alive(pid) -> bool:
    try: os.kill(pid, 0)
    except ProcessLookupError: return False
    return True


def test_killed_in_mid_run_it_resumes_to_the_same_bits(folder, tmp_path):
    cut, whole = tmp_path/"cut", tmp_path/"whole"
    words = ["--scale", "smoke", "--seeds", "1", "--jobs", "1", "-p", "steps=2000"]
    process = start(folder, cut, *words)
    wait_for(lambda: list(cut.glob("runs/*/checkpoint.safetensors")))
    below = descendants(process.pid)
    assert len(below) >= 2                                                              # the runner and its kernel
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: not any(map(alive, below)), 20)                                    # the children follow their parent
    assert list(cut.glob("runs/*/checkpoint.safetensors")) and not list(cut.glob("runs/*/result.json")) and not (cut/"index.json").exists()
    assert start(folder, cut, *words).wait(300) == 0
    assert '"resumed\\n"' in next((cut/"notebooks"/"runs").glob("*.ipynb")).read_text()
    item = repro.read_item(folder/"paper"/"tab_ring.ipynb")
    config, = repro.plan(item, dict(steps=2000, seeds=1))
    repro.collect([config], whole, "cpu", progress=False)                               # the same run, never interrupted
    assert same_run(cut, whole, config.key)


def test_ctrl_c_stops_at_once(folder, tmp_path):
    out = tmp_path/"out"
    process = start(folder, out, "--scale", "smoke", "--seeds", "1", "--jobs", "1", "-p", "steps=2000")
    wait_for(lambda: list(out.glob("runs/*/checkpoint.safetensors")))
    below, began = descendants(process.pid), time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    text, _ = process.communicate(timeout=20)
    assert process.returncode == 130 and time.monotonic() - began < 5
    assert "stopped; what is finished is kept" in text and "Traceback" not in text
    wait_for(lambda: not any(map(alive, below)), 20)
    assert list(out.glob("runs/*/checkpoint.safetensors")) and not list(out.glob("runs/*/result.json"))


def test_items_without_the_contract_are_refused(folder, capsys):
    from nats_companion.cli import main
    write_notebook(folder/"paper"/"bad.ipynb", "# Bad", parameters=PARAMETERS.replace("steps = 60", "steps = 6*10"), scales=SCALES)
    assert main(["list", "--notebooks", str(folder)]) == 2
    assert "bad.ipynb: `steps = 6 * 10` is not allowed here" in capsys.readouterr().err


@pytest.mark.parametrize("words, expected", [(["nets"], "'nest'"), (["nest", "--rounds", "0"], "rounds=0 is not allowed"), (["nest", "--peers", "nowhere"], "is not a folder"), (["nest", "--device", "cdua"], "Did you mean 'cuda'")])
def test_bench_refuses(tmp_path, capsys, words, expected):
    from nats_companion.cli import main
    assert main(["bench", *words, "--out", str(tmp_path/"bench.json")]) == 2 and expected in capsys.readouterr().err
    assert not (tmp_path/"bench.json").exists()


def test_bench_measures_and_says_what_is_absent(tmp_path):
    done = command("bench", "list", "stage-15", "--rounds", 1, "--out", tmp_path/"bench.json")
    assert done.returncode == 0 and "not run: needs a peer: put a checkout of riejohnson/cfg-gan-pt" in done.stdout, done.stderr
    stored = json.loads((tmp_path/"bench.json").read_text())
    assert set(stored) == {"list"} and 0 < stored["list"]["median"] < 60 and stored["list"]["provenance"]["commit"] == core.commit()
    assert (tmp_path/"bench"/"bench_bars.png").exists() and "Verdict" in (tmp_path/"bench"/"results.ipynb").read_text()
