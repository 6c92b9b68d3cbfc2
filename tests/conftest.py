"""What several tests share: the clone, its notebooks, and one reproduction of all items at scale smoke."""
import importlib.util, json, os, signal, subprocess, sys
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


BESIDE = {}  # the reproduction at scale smoke: what goes on in the background of the other tests


def pytest_collection_finish(session):
    "Begin the reproduction that many tests look at, so that it is done, or nearly, when the first of them asks."
    if session.config.option.collectonly or not any("smoke" in getattr(item, "fixturenames", ()) for item in session.items): return
    folder = session.config._tmp_path_factory.mktemp("smoke")
    words = ["reproduce", "all", "--scale", "smoke", "--out", str(folder/"out"), "--device", "cpu", "--jobs", "1"]
    said = {name: open(folder/name, "w+") for name in ("stdout", "stderr")}
    BESIDE.update(out=folder/"out", said=said, process=subprocess.Popen([CLI, *words], **said, start_new_session=True))


def pytest_sessionfinish(session):
    "Nothing goes on when the tests are over: interrupted, `reproduce` ends all that it started."
    if BESIDE and BESIDE["process"].poll() is None:
        BESIDE["process"].send_signal(signal.SIGINT)
        BESIDE["process"].wait(PATIENCE)


@pytest.fixture(scope="session")
def smoke():
    """All items that need nothing but the clone, the headline set and the others, reproduced once at scale smoke by the command line: (process, output folder).

    An item that fails is not on the index, and its tests fail alone."""
    status = BESIDE["process"].wait(PATIENCE)
    for stream in BESIDE["said"].values(): stream.seek(0)
    texts = {name: stream.read() for name, stream in BESIDE["said"].items()}
    return subprocess.CompletedProcess(BESIDE["process"].args, status, **texts), BESIDE["out"]
