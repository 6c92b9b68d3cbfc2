"""One run by two processes is the run of one: the same numbers in each reading, with penalties and batch norm; and a run goes on with another number of processes."""
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from nats_companion import core, runs
from nats_companion.config import Config

BASE = dict(dataset="digits", size=8, network="dcgan", width=4, latent=8, batch=16, pool=48, epochs=2, nest=3, steps=12, evaluations=2, samples=60,
            regulariser="r1", strength=0.1, lr_d=1e-3, lr_g=1e-3, ema=0.9)


def train(out: Path, processes: int, **fields) -> subprocess.CompletedProcess:
    "The command `train`, alone or under torchrun."
    pairs = [word for name, value in (BASE | fields).items() for word in ("-p", f"{name}={value}")]
    command = [str(Path(sys.executable).parent/"nats-companion"), "train", *pairs, "--out", str(out), "--device", "cpu"]
    if processes > 1:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "--no-python", *command]
    env = os.environ | dict(OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo", CUDA_VISIBLE_DEVICES="", ACCELERATE_USE_CPU="1")
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def published(out: Path, **fields) -> tuple[dict, dict]:
    "The final state by name, and the result, of the run under `out`."
    key = Config(**BASE | fields).key
    tensors = core.load_tensors(runs.run_folder(key, out)/"state.safetensors")[0]
    return tensors, runs.stored(key, out)


def apart(one: dict, other: dict) -> float:
    "The largest difference of two states; of random streams, 1 where they differ."
    assert one.keys() == other.keys()
    return max((a.float() - b.float()).abs().max().item() if a.is_floating_point() else float((a != b).any()) for a, b in ((one[k], other[k]) for k in one))


@pytest.mark.parametrize("fields", [dict(reading="accumulate"), dict(reading="sequential"), dict(reading="flow", micro_batches=2, clip_norm=1.0, standing=2, entropy=0.01)], ids=lambda f: f["reading"])
def test_two_processes_make_the_run_of_one(tmp_path, fields):
    for n in (1, 2): train(tmp_path/str(n), n, **fields)
    (one, result), (two, again) = published(tmp_path/"1", **fields), published(tmp_path/"2", **fields)
    assert apart(one, two) < 1e-5 and len(one) > 30
    for a, b in zip(result["history"], again["history"], strict=True): assert all(abs(a[k] - b[k]) <= 1e-3*max(1, abs(a[k])) for k in a if "seconds" not in k)
    assert not list((tmp_path/"2").rglob("*.tmp*"))


def test_a_run_goes_on_with_another_number_of_processes(tmp_path):
    """Two processes are ended after a checkpoint; one goes on, and comes out where one alone does."""
    script = ("import sys\nfrom nats_companion import parallel, training\nfrom nats_companion.config import Config\nfrom nats_companion.runs import run_folder\n"
              "world, _ = parallel.assemble()\nconfig = Config(**eval(sys.argv[1]))\ntrainer = training.Trainer(config, 'cpu', world)\n"
              "for record in trainer:\n    if record.step >= 6: break\n"
              "if world.leads:\n    folder = run_folder(config.key, sys.argv[2])\n    folder.mkdir(parents=True)\n"
              "    training.checkpoint(folder/'checkpoint.safetensors', trainer, [], dict(cpu_seconds=0.0, wall_seconds=0.0, evaluation_seconds=0.0))\n")
    fields = dict(reading="flow", evaluations=1)
    (tmp_path/"half.py").write_text(script)
    env = os.environ | dict(OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME="lo", CUDA_VISIBLE_DEVICES="", PYTHONPATH=str(ROOT))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(tmp_path/"half.py"), repr(BASE | fields), str(tmp_path/"two")]
    half = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert half.returncode == 0, half.stdout + half.stderr
    train(tmp_path/"two", 1, **fields)
    train(tmp_path/"one", 1, **fields)
    (on, _), (whole, _) = published(tmp_path/"two", **fields), published(tmp_path/"one", **fields)
    assert 0 < apart(on, whole) < 1e-5                                    # it was not begun anew, or nothing would differ


def test_too_many_processes_are_refused():
    from nats_companion.parallel import World, share
    with pytest.raises(ValueError, match="cannot be cut among"): share(3, World(0, 4))
