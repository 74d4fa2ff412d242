"""Where `make figures` spends its time: runs, and around them start-up, imports and drawing.

    python bench/breakdown.py [--profile embedded]

Read from what it left: rows have the seconds of their runs (every stored row of the profile counts), executed notebooks
those of their cells. They add up to more than the clock shows where several ran side by side.
`start` is what papermill and the kernel take, `imports` the cell that imports the library, `drawing` cells that save a
figure, `reading` all others. Written to outputs/bench/<date>_<cpu or gpu>_<torch>_figures.csv.
"""

import argparse
import json

from sheet import record

from oefsmc_lib.files import outputs_folder
from oefsmc_lib.notebook import session
from oefsmc_lib.rows.store import Store

PARTS = ["start", "imports", "drawing", "reading"]


def part_of(source: str) -> str:
    return "imports" if "start_notebook" in source else "drawing" if "book.save" in source else "reading"


def notebook(path) -> dict[str, float]:
    """Seconds of each part of an executed notebook."""
    executed = json.loads(path.read_text())
    spent = dict.fromkeys(PARTS, 0.0)
    for cell in executed["cells"]:
        if cell["cell_type"] == "code":
            spent[part_of("".join(cell["source"]))] += cell["metadata"]["papermill"]["duration"] or 0.0
    spent["start"] = executed["metadata"]["papermill"]["duration"] - sum(spent.values())
    return spent


def lines(profile):
    rows = [row for row in Store().rows() if row.profile == profile]
    yield {"what": "runs", "seconds": round(sum(row.seconds_total for row in rows), 1), "count": len(rows)}
    paths = [outputs_folder() / "executed" / profile / path.name for path in session.narrative()]
    spent = [notebook(path) for path in paths if path.is_file()]
    for part in PARTS:
        yield {"what": part, "seconds": round(sum(each[part] for each in spent), 1), "count": len(spent)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="embedded")
    record("figures", ["what"], ["seconds", "count"], lines(parser.parse_args().profile))


if __name__ == "__main__":
    main()
