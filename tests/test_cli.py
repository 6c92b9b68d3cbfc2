"""The command line under fire: refusals, failing runs, kills and Ctrl-C. Items here are small ones of our own; runs are real runs on the ring."""
import json
import os
import signal
import subprocess
import time

import psutil
import pytest
from conftest import CLI, NBS, PATIENCE, command

from nats_companion import core, cost, engine, items, prices, repro, runs

PARAMETERS = 'scale = "cpu"\nseeds = 2\nout = ""\ndevice = "auto"\nsteps = 60\nbackends = [""]'
SCALES = 'SCALES = {"smoke": {"steps": 20}, "cpu": {}, "gpu": {}, "paper": {}}'
PLAN = """from nats_companion.items import sweep
plan = sweep(dict(dataset="ring", size=0, latent=4, width=32, spectral_norm=False, loss="cfg", nest=5, pool=64, epochs=1, batch=32, lr_d=1e-3, evaluations=2, samples=200, steps=steps),
             compile=backends, seed=range(seeds))"""
OPEN = """from nats_companion.page import Page
page = Page.open({name!r}, globals())"""
USE = """runs = page.collect(plan, progress=False)
page.table(page.summary(["steps"], ["mode_divergence"]))"""
RUN = """from nats_companion import runs
from nats_companion.training import Config
for fields in configs:
    config = Config(**fields)
    print("resumed" if runs.state_of(config.key, out) == "started" else "started")
    runs.obtain(config, out, device, progress=False, checkpoint_seconds=0.1)"""


def write_notebook(path, title, **tagged):
    made = [dict(cell_type="markdown", id="title", metadata={}, source=title)]
    made += [dict(cell_type="code", id=tag, metadata=dict(tags=[tag]), execution_count=None, outputs=[], source=source) for tag, source in tagged.items()]
    core.write_json(path, dict(cells=made, metadata=dict(kernelspec=dict(name="python3", display_name="python3", language="python")), nbformat=4, nbformat_minor=5))


@pytest.fixture
def folder(tmp_path):
    "A notebooks folder with the items tab_ring and plain."
    nbs = tmp_path/"nbs"
    write_notebook(nbs/"paper"/"tab_ring.ipynb", "# Ring\n\n> Runs on the ring", parameters=PARAMETERS, scales=SCALES, open=OPEN.format(name="tab_ring"), plan=PLAN, use=USE)
    write_notebook(nbs/"paper"/"plain.ipynb", "# Plain\n\n> Needs no run", parameters=PARAMETERS, scales=SCALES, use="print(steps)")
    write_notebook(nbs/"experiments"/"run.ipynb", "# Run", parameters="configs = []\nout = ''\ndevice = 'cpu'", train=RUN)
    return nbs


def start(folder, out, *words):
    "Start `reproduce` in a process group of its own."
    words = ["reproduce", "tab_ring", *words, "--notebooks", folder, "--out", out, "--device", "cpu"]
    return subprocess.Popen([CLI, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))  # a shell's background job would ignore Ctrl-C, and so would its children


def wait_for(condition):
    end = time.monotonic() + PATIENCE
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
    (["reproduce", "--profile", "slrum"], "profile='slrum' is not known"),
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


def test_list_imports_nothing_heavy():
    "What makes it quick: neither torch nor pandas nor papermill is needed to answer. (How quick is measured by the benchmark `list`.)"
    done = command("list")
    assert done.returncode == 0 and "fig4" in done.stdout
    look = "import sys; from nats_companion.cli import main; main(['list']); print([m for m in ('torch', 'pandas', 'papermill', 'numpy', 'snakemake') if m in sys.modules], file=sys.stderr)"
    assert subprocess.run([os.path.join(os.path.dirname(CLI), "python"), "-c", look], capture_output=True, text=True).stderr.strip() == "[]"


def test_show_names_parameters_and_notebook():
    shown = command("show", "fig4").stdout
    assert "nbs/paper/fig4.ipynb" in shown and "parameter" in shown and all(scale in shown for scale in items.SCALES)


def test_dry_run_writes_nothing(folder, tmp_path):
    done = command("reproduce", "--scale", "smoke", "--dry-run", "--notebooks", folder, "--out", tmp_path/"out")
    assert done.returncode == 0 and "2 different runs to train" in done.stdout and "2 item notebooks to execute" in done.stdout
    assert not (tmp_path/"out").exists()


def test_a_failing_run_is_reported_and_costs_nobody_else(folder, tmp_path):
    out = tmp_path/"out"
    words = ["reproduce", "--scale", "smoke", "--seeds", 1, "--jobs", 1, "-p", "backends=['no-such-backend', '']", "--notebooks", folder, "--out", out, "--device", "cpu"]
    done = command(*words)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "tab_ring was not executed: 1 of its 2 runs failed." in done.stdout and "(compile=no-such-backend, seed 0)" in done.stdout and "nats-companion reproduce tab_ring --scale smoke --seeds 1" in done.stdout
    assert len(runs.load_runs(out)) == 1                                               # its sibling in the same notebook finished
    index = prices.read_index(out)
    assert set(index["items"]) == {"plain"} and len(index["failed"]) == 1               # and so did the other item
    assert not (out/"notebooks"/"tab_ring.ipynb").exists() and list((out/"notebooks"/"failed").glob("runs-*.ipynb"))
    again = command(*words[:7], "--notebooks", folder, "--out", out, "--device", "cpu")   # without the bad parameter all is there already
    assert again.returncode == 0 and "0 different runs to train" in again.stdout and prices.read_index(out)["failed"] == []


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
    return {child.pid for child in psutil.Process(pid).children(recursive=True)}


def alive(pid) -> bool: return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def running(pid, module) -> list[int]:
    "The processes below `pid` that are python -m `module`: nats_companion.jobs executes a job, snakemake is the engine."
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        try: words = child.cmdline()
        except psutil.NoSuchProcess: continue
        if words[1:3] == ["-m", module]: found.append(child.pid)
    return found


def test_killed_in_mid_sweep_it_finishes_with_only_the_missing_runs(folder, tmp_path):
    cut, whole = tmp_path/"cut", tmp_path/"whole"
    words = ["--scale", "smoke", "--seeds", "2", "--jobs", "1", "-p", "steps=2000"]
    process = start(folder, cut, *words)
    wait_for(lambda: list(cut.glob("runs/*/result.json")) and list(cut.glob("runs/*/checkpoint.safetensors")))
    done, = cut.glob("runs/*/result.json")
    stamp, below = done.stat().st_mtime_ns, descendants(process.pid)
    assert len(running(process.pid, "nats_companion.jobs")) == 1 and len(below) >= 3                           # the engine, the runner and its kernel
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: not any(map(alive, below)))                                   # all of them follow
    assert len(list(cut.glob("runs/*/result.json"))) == 1 and not (cut/"index.json").exists()
    second = start(folder, cut, *words)
    text, _ = second.communicate(timeout=PATIENCE)
    assert second.returncode == 0 and "1 different runs to train" in text and done.stat().st_mtime_ns == stamp
    notebooks = [p.read_text() for p in (cut/"notebooks"/"runs").glob("*.ipynb")]
    assert len(notebooks) == 1 and notebooks[0].count('"resumed\\n"') == 1 and '"started\\n"' not in notebooks[0]
    plan = items.plan(items.read_item(folder/"paper"/"tab_ring.ipynb"), dict(steps=2000, seeds=2))
    other = next(planned for planned in plan if planned.config.key != done.parent.name)
    runs.train([other], whole, "cpu", progress=False)                                   # the same run, never interrupted
    assert same_run(cut, whole, other.config.key)
    stamps = {p: p.stat().st_mtime_ns for p in cut.glob("**/*.ipynb")}
    third = start(folder, cut, *words)
    text, _ = third.communicate(timeout=PATIENCE)
    assert third.returncode == 0 and "0 different runs to train in 0 notebook executions, 0 item notebooks to execute" in text
    assert {p: p.stat().st_mtime_ns for p in cut.glob("**/*.ipynb")} == stamps and len(prices.read_index(cut)["calls"]) == 1


def test_a_killed_worker_costs_the_run_it_was_at(folder, tmp_path):
    out = tmp_path/"out"
    process = start(folder, out, "plain", "--scale", "smoke", "--seeds", "2", "--jobs", "1", "-p", "steps=2000")
    wait_for(lambda: list(out.glob("runs/*/checkpoint.safetensors")))
    at, = (p.parent.name for p in out.glob("runs/*/checkpoint.safetensors"))
    os.kill(running(process.pid, "nats_companion.jobs")[0], signal.SIGKILL)
    text, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1 and f"run {at} failed: its process was killed" in text and "tab_ring was not executed: 1 of its 2 runs failed." in text
    done, = runs.load_runs(out).key
    assert done != at and list(prices.read_index(out)["items"]) == ["plain"]


def test_a_killed_engine_is_not_blamed_on_a_run(folder, tmp_path):
    out = tmp_path/"out"
    process = start(folder, out, "--scale", "smoke", "--seeds", "1", "--jobs", "1", "-p", "steps=20000")
    wait_for(lambda: list(out.glob("runs/*/checkpoint.safetensors")))
    below = descendants(process.pid)
    os.kill(running(process.pid, "snakemake")[0], signal.SIGKILL)
    text, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1 and "the workflow engine failed (exit status -9" in text and "runs failed" not in text and "tab_ring was not executed: the workflow engine failed" in text
    wait_for(lambda: not any(map(alive, below)))


def test_two_at_once_and_ctrl_c_stops_both(folder, tmp_path):
    out = tmp_path/"out"
    process = start(folder, out, "--scale", "smoke", "--seeds", "2", "--jobs", "2", "-p", "steps=20000")
    wait_for(lambda: len(list(out.glob("runs/*/checkpoint.safetensors"))) == 2)
    below = descendants(process.pid)
    assert len(running(process.pid, "nats_companion.jobs")) == 2
    os.kill(process.pid, signal.SIGINT)
    text, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "stopped; what is finished is kept" in text and "Traceback" not in text
    wait_for(lambda: not any(map(alive, below)))
    assert list(out.glob("runs/*/checkpoint.safetensors")) and not list(out.glob("runs/*/result.json"))


def test_the_example_profile_is_accepted_by_the_engine(folder, tmp_path):
    pytest.importorskip("snakemake_executor_plugin_slurm")
    work = repro.decide(["tab_ring"], "smoke", out=tmp_path/"out", device="cuda", notebooks=folder, profile=str(NBS/"experiments"/"slurm"))
    assert work.jobs == 100 and work.device == "cuda" and not work.gpus                  # no GPU is needed here
    todo = repro.left(work, cost.Speeds("cpu", tmp_path/"speeds.json"))
    engine.hand_over(repro.jobs_of(todo, work), tmp_path)
    dry = subprocess.run([*engine.engine_command(tmp_path, work.jobs, work.profile), "--dry-run"], capture_output=True, text=True)
    assert dry.returncode == 0, dry.stderr
    assert all(words in dry.stdout + dry.stderr for words in ("rule tab_ring:", "mem_mb=8000", "runtime=240", "gpu=1"))


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


def test_a_new_item_is_one_new_file(tmp_path):
    "A copy of the clone's notebooks with one file more: it is listed, planned, reproduced, and asks for no edit elsewhere."
    import shutil
    nbs = tmp_path/"nbs"
    for part in ("paper", "theory", "recipes", "experiments"): shutil.copytree(NBS/part, nbs/part)
    write_notebook(nbs/"paper"/"tab_new.ipynb", "# New\n\n> One more", parameters=PARAMETERS, scales=SCALES, open=OPEN.format(name="tab_new"), plan=PLAN, use=USE + '\npage.verdict("It runs.")')
    assert "tab_new: New" in command("list", "--notebooks", nbs).stdout
    done = command("reproduce", "tab_new", "--scale", "smoke", "--notebooks", nbs, "--out", tmp_path/"out", "--device", "cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    assert prices.read_index(tmp_path/"out")["items"]["tab_new"]["files"] == ["tables/tab_new.csv", "tables/tab_new.md", "tables/tab_new.tex", "notebooks/tab_new.ipynb"]
    assert "It runs." in (tmp_path/"out"/"index.md").read_text()
    found = items.find_items(nbs)
    assert set(found) - set(items.find_items()) == {"tab_new"} and "tab_new" not in prices.read_index(prices.reports("cpu"))["items"]


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_out_that_is_a_file_is_refused_in_one_line(folder, tmp_path, capsys, place):
    from nats_companion.cli import main
    (tmp_path/"file").write_text("")
    assert main(["reproduce", "plain", "--scale", "smoke", "--notebooks", str(folder), "--out", str(tmp_path/place)]) == 2
    message = capsys.readouterr().err
    assert len(message.splitlines()) == 1 and "is a file; give another folder" in message


def test_dry_run_changes_nothing_anywhere(folder, tmp_path):
    "Not even a remembered speed; and what could not work in any run is refused by it."
    def picture(): return {p: p.stat().st_mtime_ns for base in (prices.reports(), tmp_path) for p in base.rglob("*") if p.is_file()}
    before = picture()
    done = command("reproduce", "--scale", "smoke", "--dry-run", "--notebooks", folder, "--out", tmp_path/"out", "--device", "cpu")
    assert done.returncode == 0 and picture() == before
    refused = command("reproduce", "fig4", "--scale", "smoke", "-p", "pool=10", "--dry-run")
    assert refused.returncode == 2 and "fig4: pool=10 is smaller than batch=64" in refused.stderr


def test_a_literal_is_refused_without_asserts_too():
    "`python -O` leaves out assertions; what is refused must not depend on them."
    look = "from nats_companion.items import literals; literals('x += 1')"
    done = subprocess.run([os.path.join(os.path.dirname(CLI), "python"), "-O", "-c", look], capture_output=True, text=True)
    assert done.returncode != 0 and "is not allowed here" in done.stderr


def test_results_of_the_old_layout_are_read(folder, tmp_path):
    "A folder that an earlier version left: runs and an index, no record of pages, no fingerprints. What is there is taken up, and the call goes through."
    out = tmp_path/"out"
    plan = items.plan(items.read_item(folder/"paper"/"tab_ring.ipynb"), dict(steps=20, seeds=1))
    trained = runs.train(plan, out, "cpu", progress=False)
    (out/"fingerprints.json").unlink()
    core.write_json(out/"index.json", dict(items=dict(tab_ring=dict(inputs="of an earlier version", files=["tables/tab_ring.md"], runs=[], parameters={})), scale="smoke"))
    index = repro.reproduce(["tab_ring"], "smoke", seeds=1, out=out, device="cpu", notebooks=folder, progress=False)
    assert not index["failed"] and "tables/tab_ring.csv" in index["items"]["tab_ring"]["files"]
    assert index["items"]["tab_ring"]["runs"] == list(trained.key) and index["calls"][0]["reused"] == 1


def test_verify_agrees_and_finds_a_planted_difference(tmp_path, monkeypatch):
    "Exit status 0 where the committed runs are reproduced, 1 where one of them says something else."
    from nats_companion import agreement
    from nats_companion.cli import main
    assert main(["verify", "--seconds", "1"]) == 0
    load = agreement.load_runs
    def planted(out):
        table = load(out)
        for name in table.headline.unique(): table.loc[table.headline == name, name] += 1000.0
        return table
    monkeypatch.setattr(agreement, "load_runs", planted)
    assert main(["verify", "--seconds", "1"]) == 1
