"""What the repository keeps beside its packed rows and timings: tables, the verdict, pictures, the README's numbers.

    python -m oefsmc_lib.notebook.publish                         # `make evidence`

All of it comes from ``outputs/results/*.jsonl`` and ``outputs/bench/*.csv`` of the project alone: no images, no
networks, no row that a run here has left.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from oefsmc_lib.errors import InputError
from oefsmc_lib.evidence import figures, markdown, overview, shipping, tables, timings, verdict
from oefsmc_lib.files import project_root, writable_folder, write_whole
from oefsmc_lib.notebook import session
from oefsmc_lib.parameters import grid
from oefsmc_lib.rows.store import Store

PROFILES = ("cifar10", "cifar100")
# grid -> the starts of the names of the figures that show it, which are kept once the grid has packed rows
PICTURES = {
    "table1": ["01"],
    "table2": ["03"],
    "fig3a": ["04_ablation", "04_stopping"],
    "fig3b": ["05_size", "05_cost"],
    "fig3c": ["05_lambda"],
    "fig3d": ["05_eta"],
    "beyond": ["06"],
    "literal": ["06_solvers"],
}
SHIPPED = ("cifar10", "08_shipping")  # drawn from outputs/bench
MARKS = re.compile(r"<!-- ([a-z]+) (\S+) -->\n(?:.*?\n)??<!-- end -->", re.S)


def kept() -> Path:
    """The folder that the repository keeps, whatever ``OEFSMC_OUTPUTS`` says."""
    return project_root() / "outputs"


def packed() -> list[tuple[str, str]]:
    """(profile, grid) of every tidy file of the repository."""
    names = [path.stem.rpartition("-") for path in sorted((kept() / "results").glob("*.jsonl"))]
    return [(profile, name) for profile, _, name in names]


def packed_rows(folder: Path) -> Store:
    """A store of the tidy files alone, copied into ``folder``."""
    for path in (kept() / "results").glob("*.jsonl"):
        shutil.copy(path, writable_folder(folder))
    return Store(folder)


def pages_with_numbers() -> list[Path]:
    """The texts that :func:`filled` keeps in step with the rows."""
    pages = [f"docs/{name}.md" for name in ("results", "timings", "shipping", "trust")]
    return [project_root() / name for name in ("README.md", "outputs/README.md", *pages)]


def table(profile: str, name: str, store: Store):
    """Mean, sd and 95 % interval of every setting of a grid."""
    return tables.summary(store.rows({e.key for e in grid.load_grid(name, profile).experiments}))


def filled(text: str, store: Store) -> str:
    """A text with everything between its marks made anew from rows and benches.

    The marks are ``<!-- KIND OF -->`` and ``<!-- end -->``. OF is a profile for a KIND that is made of rows, and the
    name of a file of ``outputs/bench/`` for the others.
    """
    make = {
        "verdict": lambda of: markdown.markdown(verdict.rows_by_grid(of, store)),
        "found": lambda of: overview.found_markdown(verdict.rows_by_grid(of, store)),
        "artefacts": lambda of: overview.artefacts_markdown(verdict.rows_by_grid(of, store)),
        "stopping": lambda of: markdown.stopping_markdown(verdict.rows_by_grid(of, store).get("table2", ())),
        "solvers": lambda of: markdown.solver_markdown(verdict.rows_by_grid(of, store).get("literal", ())),
        "settings": lambda of: markdown.settings_markdown(verdict.rows_by_grid(of, store).get("beyond", [])),
        "missing": lambda of: overview.missing_markdown(of, store),
        "devices": lambda of: overview.devices_markdown(verdict.rows_by_grid(of, store)),
        "shipping": lambda _: shipping.markdown(),
    }
    make |= {part: partial(_of_bench, show) for part, show in timings.MARKDOWN.items()}
    return MARKS.sub(lambda mark: f"<!-- {mark[1]} {mark[2]} -->\n{make[mark[1]](mark[2])}\n<!-- end -->", text)


def _of_bench(show: Callable[[Path], str], name: str) -> str:
    path = kept() / "bench" / name
    return f"{show(path)}\n\n{timings.measured_with(path)}"


def redo(outputs: Path) -> None:
    """Write all of it; ``outputs``, an empty folder, takes the rows and what the notebooks draw.

    A picture whose grid has no packed rows is left out. Nothing is replaced before all of it is made.
    """
    os.environ["OEFSMC_OUTPUTS"] = str(outputs)
    store = packed_rows(outputs / "results")
    made = {(profile, name): table(profile, name, store) for profile, name in packed()}
    texts = {path: filled(path.read_text(), store) for path in pages_with_numbers()}
    drawn = pictures(outputs)
    for profile in PROFILES:
        for old in (kept() / "tables" / profile).glob("*.csv"):
            old.unlink()
    for (profile, name), found in made.items():
        tables.to_csv(found, kept() / "tables" / profile / f"{name}.csv")
    for path, place in drawn:
        shutil.copy(path, writable_folder(place.parent) / place.name)
    for path, text in texts.items():
        write_whole(path, text)
    print(f"{len(made)} tables, {len(drawn)} pictures and {len(texts)} pages show the packed rows")


def pictures(outputs: Path) -> list[tuple[Path, Path]]:
    """Draw under ``outputs``, which has the rows; [(a picture, where the repository keeps it)]."""
    wanted = [(profile, start) for profile, name in packed() if profile in PROFILES for start in PICTURES.get(name, [])]
    for profile, book in sorted({(profile, start[:2]) for profile, start in wanted}):
        session.run_all(profile, [book])
    found = []
    for profile, start in wanted:
        drawn = sorted((outputs / "figures" / profile).glob(f"{start}*.png"))
        found += [(path, kept() / "figures" / profile / path.name) for path in drawn]
    if shipping.rows() is not None:  # from a bench and no grid, so no notebook has to run
        profile, name = SHIPPED
        figures.style()
        session.Book(profile).save(figures.shipping_files(), name)
        found.append((outputs / "figures" / profile / f"{name}.png", kept() / "figures" / profile / f"{name}.png"))
    return found


if __name__ == "__main__":
    try:
        with tempfile.TemporaryDirectory() as apart:
            redo(Path(apart))
    except InputError as error:
        raise SystemExit(f"oefsmc: {error}") from error
