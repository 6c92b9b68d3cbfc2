"""What several tests share: the clone, its notebooks, and one reproduction of all items at scale smoke."""
import importlib.util, json, os, subprocess, sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT/"nbs"
CLI = str(Path(sys.executable).parent/"nats-companion")
PATIENCE = 3600  # seconds to wait for what must come: only a hang is an error, never a slow machine
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "agg")


def committed_files(*patterns: str) -> list[Path]:
    "Files git tracks or would track, as paths relative to the clone; those deleted from the working tree are left out."
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *patterns], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return sorted({Path(name) for name in listed.split("\0") if name and (ROOT/name).is_file()})


def notebooks() -> list[Path]:
    return [ROOT/p for p in committed_files("nbs") if p.suffix == ".ipynb"]


def cells(path: Path, kind: str = "code") -> list[dict]:
    "The cells of a notebook with their source as one string."
    return [c | {"source": "".join(c["source"])} for c in json.loads(path.read_text())["cells"] if c["cell_type"] == kind]


def readme_tool():
    "The module .ci/readme.py."
    spec = importlib.util.spec_from_file_location("readme", ROOT/".ci"/"readme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def command(*words: str, **options) -> subprocess.CompletedProcess:
    "Call nats-companion in a process of its own."
    return subprocess.run([CLI, *map(str, words)], capture_output=True, text=True, timeout=PATIENCE, **options)


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    """All items, the headline set and the others, reproduced once at scale smoke by the command line: (process, output folder).

    An item that fails is not on the index, and its tests fail alone."""
    from nats_companion import items
    out = tmp_path_factory.mktemp("smoke")
    process = command("reproduce", *items.find_items(), "--scale", "smoke", "--out", out, "--device", "cpu")
    return process, out
