"""Render nbs/index.ipynb as README.md, after bringing its map of the notebooks up to date, and write reports/README.md from what lies in reports/."""
import csv, json, posixpath, re
from pathlib import Path

from nats_companion.compare import interval_text
from nats_companion.prices import duration, read_index

ROOT = Path(__file__).resolve().parent.parent
MARK = "<!-- map of the notebooks, written by `make readme` -->"


def grid(header: str, rows: list[list]) -> str:
    "A Markdown table: the columns of `header` are parted by `|`."
    lines = [" | ".join(str(cell).replace("|", r"\|") for cell in row) for row in rows]
    return "\n".join([f"| {header} |", "|" + "---|"*(header.count("|") + 1), *(f"| {line} |" for line in lines)])


def head(path: Path) -> tuple[str, str]:
    "Name and summary from a notebook's title cell."
    lines = "".join(json.loads(path.read_text())["cells"][0]["source"]).splitlines()
    return next(l[2:] for l in lines if l.startswith("# ")), next(l[2:] for l in lines if l.startswith("> "))


def table(nbs: Path, paths: list[Path], header: str, name) -> str:
    return grid(header, [[f"[{name(path)}]({path.relative_to(nbs).as_posix()})", head(path)[1]] for path in paths])


def notebook_map(nbs: Path) -> str:
    "Library, theory, recipes, experiments and benchmarks, each with the summary in its title cell; of the paper's items only where they are: one more is one more file."
    numbered = lambda p: p.stem.split("_")[0] + " " + head(p)[0]
    items = ("The items of the paper, its figures and tables, are one notebook each in [paper](paper); "
             "what each of them claims and what was measured for it: [reports](../reports/README.md).")
    parts = [table(nbs, sorted(p for p in nbs.glob("*_*.ipynb") if p.name[:2].isdigit()), "library, in reading order | what it is about", numbered),
             table(nbs, sorted((nbs/"data").glob("*.ipynb")), "kind of data, handed on by 01 | what it is", numbered),
             table(nbs, sorted((nbs/"networks").glob("*.ipynb")), "shelf of networks, handed out by 02 | what stands there", numbered),
             table(nbs, sorted((nbs/"parts").glob("*.ipynb")), "part of training, put together by 09 | what it is about", numbered),
             table(nbs, sorted((nbs/"theory").glob("*.ipynb")), "chapter of the theory | the statement that it checks", numbered),
             table(nbs, sorted((nbs/"recipes").glob("*.ipynb")), "recipe | what it shows of somebody else's loop", numbered),
             items, table(nbs, sorted((nbs/"experiments").glob("*.ipynb")), "experiment | what it does", lambda p: p.stem),
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


# A number in the prose names the cell that it is: `26.6 ± 1.3<!-- tab_schemes [row=CTS] FD -->` is the column that begins with FD, of the one row whose `row` is CTS, of
# cpu/tables/tab_schemes.csv in reports/. Conditions are parted by `;`, values that will do by ` or `; `+difference` shows the sign, `-difference` turns it; `difference` takes its `half_width` along.

QUOTED = re.compile(r"([+−-]?\d[\d.,]*(?: ± [\d.]+)?)<!-- (?!least )(\S+) \[([^\]]*)\] ([^>]+?) -->")


# A choice names its table likewise: `**NTS or NATS**<!-- least tab_networks [networks=MLP] scheme FD -->` are the schemes, of the rows whose `networks` is MLP, whose interval
# of FD reaches that of the least mean; `undecided` where that leaves out none of them. Intervals that do not overlap are further apart than the pairs of a verdict need to be.

CHOSEN = re.compile(r"\*\*([^*\n]+)\*\*<!-- least (\S+) \[(.*?)\] (\S+) (\S+) -->")
PAGES = "index", "decide"  # notebooks whose prose quotes tables


def found_in(table: str, where: str, column: str, reports: Path) -> tuple[list[dict], list[str], ValueError]:
    "The rows and columns that a quotation names, and the error to raise where they are not what was meant."
    path = reports/f"{table if '/' in table else f'cpu/tables/{table}'}.csv"
    with open(path, newline="") as file: rows = list(csv.DictReader(file))
    wanted = [pair.strip().split("=", 1) for pair in where.split(";") if pair.strip()]
    found = [row for row in rows if all(row[name] in values.split(" or ") for name, values in wanted)]
    names = [n for n in rows[0] if n == column] or [n for n in rows[0] if n.startswith(column)]
    return found, names, ValueError(f"{path.name}: [{where}] {column} names {len(found)} rows and the columns {names}; name one of {list(rows[0])}.")


def cell_of(table: str, where: str, column: str, reports: Path) -> str:
    "The text of the cell that a quotation names, or a `ValueError` that says what is there instead."
    sign = column[0] if column[0] in "+-" else ""
    found, names, error = found_in(table, where, column.lstrip("+-"), reports)
    if len(found) != 1 or len(names) != 1: raise error
    row, name = found[0], names[0]
    if " ± " in row[name]: return row[name].split(" (n")[0]
    value = float(row[name])*(-1 if sign == "-" else 1)
    half = float(row["half_width"]) if name == "difference" else None
    plain = f"{value:,.0f}" if value.is_integer() and abs(value) >= 1000 else f"{value:.3g}"
    text = interval_text(value, half, 1).split(" (n")[0] if half is not None else plain
    return ("+" if sign == "+" and value >= 0 else "") + text.replace("-", "−")


def least(table: str, where: str, by: str, column: str, reports: Path) -> str:
    "The values of `by` of the rows that a choice names whose interval reaches that of the least mean, in words."
    found, names, error = found_in(table, where, column, reports)
    if len(names) != 1 or len({row.get(by) for row in found} - {None}) != len(found) or len(found) < 2: raise error
    intervals = {row[by]: [*map(float, row[names[0]].split(" (n")[0].split(" ± "))] for row in found}
    top = sum(min(intervals.values()))
    *more, last = near = [name for name, (mean, half) in intervals.items() if mean - half <= top]
    return "undecided" if len(near) == len(intervals) else f"{', '.join(more)} or {last}" if more else last


def filled(text: str, reports: Path) -> str:
    "`text` with every quoted number and every choice as its table has it now."
    text = QUOTED.sub(lambda m: f"{cell_of(*m.groups()[1:], reports)}<!-- {m[2]} [{m[3]}] {m[4]} -->", text)
    return CHOSEN.sub(lambda m: f"**{least(*m.groups()[1:], reports)}**<!-- least {m[2]} [{m[3]}] {m[4]} {m[5]} -->", text)


def refresh(path: Path, reports: Path) -> None:
    "Bring the map of the notebooks and every quotation in the notebook `path` up to date."
    notebook = json.loads(path.read_text())
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if source.startswith(MARK): source = notebook_map(path.parent)
        if cell["cell_type"] == "markdown": source = filled(source, reports)
        cell["source"] = source.splitlines(keepends=True)
    path.write_text(json.dumps(notebook, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


# What follows makes reports/README.md. `place` is a folder of evidence, one with an index.json, as it is called from reports/.

KINDS = {"tables": ".md", "figures": ".png", "notebooks": ".ipynb"}  # of each, the form to read on GitHub
FILES = {"index.md": "each claim with its verdict", "runs.csv": "every run, its settings, scores and cost",
         "index.json": "what each item took and rests on", "fingerprints.json": "what the code did that trained the runs"}
FOLDERS = {"tuning": "what the learning rates and step sizes of the items were chosen from, on validation data and on seeds that are not reported; a folder for each record",
           "bench": "the library beside hand-written and other code; a file of results, and a folder with the page of them, for each kind of device",
           "records": "what the prices of `nats-companion list` and `--dry-run` rest on, not meant to be read: [costs.json](records/costs.json), what each item takes "
                      "at each scale, and [speeds.json](records/speeds.json), what single calls take"}
NOTE = """Written by `make readme` from what lies in this folder. An item's name leads to its verdict.
CPU time is that of all processes; GPU time is what passed while runs were on the card, which they may have shared.
A run that several items share counts for each of them, and once in a total."""


def evidence(place: str, reports: Path) -> dict[str, dict]:
    "The index entry of each item that left files in `place`, the paper's before the chapters of the theory; an item without files is not listed."
    entries = {name: e for name, e in read_index(reports/place)["items"].items() if any((reports/place/f).exists() for f in e["files"])}
    return dict(sorted(entries.items(), key=lambda pair: not pair[0].startswith(("fig", "tab_"))))


def runs_in(place: str, reports: Path) -> dict[str, dict]:
    "The rows of the table of runs in `place`, by key; none where no item has runs."
    if not (reports/place/"runs.csv").exists(): return {}
    with open(reports/place/"runs.csv", newline="") as file: return {row["key"]: row for row in csv.DictReader(file)}


def time_of(entries: list[dict], runs: dict[str, dict]) -> str:
    "What `entries` took: the CPU time of their notebooks and that of their runs, each run once; of runs on a GPU the time that passed."
    cost = lambda key, clock="cpu_seconds": float(runs[key][clock]) + float(runs[key]["evaluation_seconds"])
    keys = dict.fromkeys(key for e in entries for key in e["runs"])
    gpu = [key for key in keys if runs[key]["device"] == "cuda"]
    notebooks = sum(e["cpu_seconds"] - sum(map(cost, e["runs"])) for e in entries)
    spent = {"GPU": sum(cost(key, "wall_seconds") for key in gpu), "CPU": notebooks + sum(cost(key) for key in keys if key not in gpu)}
    return ", ".join(f"{duration(seconds)} {clock}" for clock, seconds in spent.items() if seconds)


def made_by(provenances) -> str:
    "The devices and the commits that these name."
    devices, commits = zip(*[(f"{p['device_name']} ({p['device']})", p["commit"]) for p in provenances])
    return f"{', '.join(sorted({*devices}))}, commit{'s'*(len({*commits}) > 1)} {', '.join(sorted({*commits}))}"


def files_of(name: str, entry: dict, place: str, kind: str) -> list[str]:
    "Paths from reports/ of the files of one kind that an item made, its namesake first."
    found = [Path(place)/f for f in entry["files"] if f.startswith(kind) and f.endswith(KINDS[kind])]
    return [p.as_posix() for p in sorted(found, key=lambda p: (p.stem != name, p.stem))]


def links(name: str, entry: dict, place: str, kind: str) -> str:
    "Links to them, each called by what its name adds to the item's."
    label = lambda path: Path(path).stem.removeprefix(name).strip("_").replace("_", " ") or kind.removesuffix("s")
    return ", ".join(f"[{label(path)}]({path})" for path in files_of(name, entry, place, kind))


def thumbnail(name: str, pictures: list[str]) -> str:
    return f'<img src="{pictures[0]}" width="160" alt="{name}">' if pictures else ""


def totals(place: str, reports: Path) -> str:
    "In a few sentences what the items of one scale took together, and what made them."
    entries, runs, index = [*evidence(place, reports).values()], runs_in(place, reports), read_index(reports/place)
    seeds = [e["parameters"]["seeds"] for e in entries]
    told = [f"{len(entries)} item{'s'*(len(entries) > 1)}, {' to '.join(map(str, sorted({min(seeds), max(seeds)})))} seeds, {len(runs):,} runs, {time_of(entries, runs)}",
            *([f"Runs on {made_by(runs.values())}"] if runs else []), f"Notebooks on {made_by(index['provenance'] | dict(commit=e['commit']) for e in entries)}",
            f"[Index]({place}/index.md)" + (f", [table of runs]({place}/runs.csv)" if runs else "")]
    return ". ".join(told) + "."


def scale_section(place: str, reports: Path) -> str:
    "The items measured at one scale, a row for each; the name leads to the verdict, where the index of the scale holds one."
    runs, verdicts, rows = runs_in(place, reports), (reports/place/"index.md").read_text(), []
    for name, e in evidence(place, reports).items():
        called = f"[{name}]({place}/index.md#{name})" if f"\n### {name}\n" in verdicts else name
        rows.append([thumbnail(name, files_of(name, e, place, "figures")), f"**{called}** {e['claim']}", e["parameters"]["seeds"],
                     len(e["runs"]), time_of([e], runs), *(links(name, e, place, kind) for kind in KINDS)])
    header = "| item, and the claim that it tests | seeds | runs | time | tables | figures | notebook"
    return f"## Scale {place}\n\n{totals(place, reports)}\n\n{grid(header, rows)}"


def tuned(entry: dict, place: str, reports: Path) -> str:
    "What a record of tuning is about, as its parameters say; the schemes of an old one stand in its table alone."
    p = entry["parameters"]
    with open(reports/place/"tables"/"tab_tuning.csv", newline="") as file: rows = dict.fromkeys(row["row"] for row in csv.DictReader(file))
    settings = "".join(f", {name}={value}" for name, value in p.get("settings", {}).items())
    return (f"{p['dataset']}, {p['size']} pixels, {p['steps']:,} discriminator steps, nest of {p['nest']}{settings}; "
            f"losses: {', '.join(p.get('losses') or [p['loss']])}; schemes: {', '.join(p.get('schemes') or rows)}")


def tuning_section(places: list[str], reports: Path) -> str:
    "A row for each record of tuning."
    rows = []
    for place in places:
        record, runs = Path(place).name, runs_in(place, reports)
        for name, e in evidence(place, reports).items():
            given = e["parameters"]
            rows.append([thumbnail(record, files_of(name, e, place, "figures")), f"**{record}** {tuned(e, place, reports)}", len(given["rates"]), given["seeds"],
                         len(e["runs"]), time_of([e], runs), made_by(runs.values()), ", ".join(links(name, e, place, kind) for kind in KINDS)])
    header = "| record, and what was tuned | trials of each scheme and loss | seeds | runs | time | runs on | files"
    return f"## Tuning\n\n{grid(header, rows)}"


def bench_section(files: list[Path], reports: Path) -> str:
    "A row for each file of results: how many keep their bar, and the page of them."
    rows = []
    for file in files:
        results = json.loads(file.read_text())
        kept = {way: [e["kept"] for name, e in results.items() if name.startswith("way-") == way] for way in (False, True)}
        verdict = f"{sum(kept[False])} of {len(kept[False])} rows keep their bar, {sum(kept[True])} of {len(kept[True])} ways save time"
        pictures, *pages = [[p.relative_to(reports).as_posix() for p in sorted(file.parent.glob(f"{file.stem}{end}"))] for end in ("/*.png", ".json", "/*.md", "/*.ipynb")]
        rows.append([thumbnail(file.stem, pictures), f"**{file.stem}** {verdict}", made_by(e["provenance"] for e in results.values()),
                     ", ".join(f"[{Path(path).name}]({path})" for path in sum(pages, []))])
    return "## Benchmarks\n\n" + grid("| results | measured on | files", rows)


def folders(scales: list[str], reports: Path) -> str:
    "What each folder holds."
    told = {}
    for place in scales:
        parts = ", ".join(kind for kind in ("figures", "tables", "notebooks") if (reports/place/kind).is_dir())
        told[place] = "; ".join(filter(None, [parts, *(f"`{name}`: {text}" for name, text in FILES.items() if (reports/place/name).exists())]))
    told |= {name: text for name, text in FOLDERS.items() if (reports/name).is_dir()}
    return grid("folder | what it holds", [[f"[{name}]({name})", text] for name, text in told.items()])


def reports_page(reports: Path) -> str:
    "reports/README.md: what each folder holds, what was measured at each scale, the records of tuning and the benchmarks, read from what lies in `reports`."
    scales = [path.parent.name for path in sorted(reports.glob("*/index.json"))]
    tuning = [path.parent.relative_to(reports).as_posix() for path in sorted(reports.glob("tuning/*/index.json"))]
    results = sorted(reports.glob("bench/*.json"))
    parts = ["# Reports", "> What was measured, at which scale, on which device and by which commit, and where it lies", NOTE, folders(scales, reports)]
    parts += [scale_section(place, reports) for place in scales if evidence(place, reports)]
    if tuning: parts.append(tuning_section(tuning, reports))
    if results: parts.append(bench_section(results, reports))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    for page in PAGES: refresh(ROOT/"nbs"/f"{page}.ipynb", ROOT/"reports")
    (ROOT/"README.md").write_text(render(ROOT/"nbs"/"index.ipynb"))
    (ROOT/"reports"/"README.md").write_text(reports_page(ROOT/"reports"))
