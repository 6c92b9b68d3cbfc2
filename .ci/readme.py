"""Render nbs/index.ipynb as README.md, after bringing its map of the notebooks up to date."""
import json, posixpath, re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MARK = "<!-- map of the notebooks, written by `make readme` -->"


def head(path: Path) -> tuple[str, str]:
    "Name and summary from a notebook's title cell."
    lines = "".join(json.loads(path.read_text())["cells"][0]["source"]).splitlines()
    return next(l[2:] for l in lines if l.startswith("# ")), next(l[2:] for l in lines if l.startswith("> "))


def table(nbs: Path, paths: list[Path], first: str, name) -> str:
    rows = [f"| [{name(path)}]({path.relative_to(nbs).as_posix()}) | {' | '.join(text.replace('|', chr(92) + '|') for text in head(path)[1:])} |" for path in paths]
    return "\n".join([f"| {first} |", "|---|---|", *rows])


def notebook_map(nbs: Path) -> str:
    "The library, the chapters of the theory, the paper's items, the experiments and the benchmarks, each with the summary in its title cell."
    items = sorted((nbs/"paper").glob("*.ipynb"), key=lambda p: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", p.stem)])
    numbered = lambda p: p.stem.split("_")[0] + " " + head(p)[0]
    parts = [table(nbs, sorted(nbs.glob("[0-9][0-9]_*.ipynb")), "library, in reading order | what it is about", numbered),
             table(nbs, sorted((nbs/"theory").glob("*.ipynb")), "chapter of the theory | the statement that it checks", numbered),
             table(nbs, items, "paper item | the claim that it tests", lambda p: p.stem), table(nbs, sorted((nbs/"experiments").glob("*.ipynb")), "experiment | what it does", lambda p: p.stem),
             table(nbs, sorted((nbs/"benchmarks").glob("*.ipynb")), "benchmark | what it measures", lambda p: head(p)[0])]
    return "\n\n".join([MARK, *parts])


def render(index: Path) -> str:
    "The README: cells without `#| hide`, links made relative to the root."
    import nbformat
    from nbconvert import MarkdownExporter
    notebook = nbformat.read(index, as_version=4)
    notebook.metadata["language_info"] = {"name": "python"}  # the word after the fence
    notebook.cells = [c for c in notebook.cells if not c.source.startswith("#| hide")]
    text, _ = MarkdownExporter().from_notebook_node(notebook)
    moved = lambda m: f"]({m[1] if ':' in m[1] or m[1].startswith('#') else posixpath.normpath(posixpath.join('nbs', m[1]))})"
    return re.sub(r"\]\(([^)\s]+)\)", moved, text).strip() + "\n"


if __name__ == "__main__":
    index = ROOT/"nbs"/"index.ipynb"
    notebook = json.loads(index.read_text())
    for cell in notebook["cells"]:
        if "".join(cell["source"]).startswith("<!-- map of the notebooks"): cell["source"] = notebook_map(index.parent).splitlines(keepends=True)
    index.write_text(json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    (ROOT/"README.md").write_text(render(index))
