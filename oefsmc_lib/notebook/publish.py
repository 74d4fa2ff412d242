"""What the repository keeps beside its packed rows and timings: tables, the verdict, pictures, the README's numbers.

    python -m oefsmc_lib.notebook.publish                         # `make evidence`

All of it comes from ``outputs/results/*.jsonl`` and ``outputs/bench/*.csv`` of the project alone: no images, no
networks, no row that a run here has left.
"""

import os
import re
import shutil
import tempfile
from pathlib import Path

from oefsmc_lib.errors import InputError
from oefsmc_lib.evidence import markdown, timings, verdict
from oefsmc_lib.evidence import tables as summaries
from oefsmc_lib.files import project_root, writable_folder, write_whole
from oefsmc_lib.notebook import session
from oefsmc_lib.parameters import grid
from oefsmc_lib.rows.store import Store

# (profile, grid) -> the notebook's figures that are kept once the grid has packed rows, by the start of their names
PICTURES = {
    ("cifar10", "table1"): "01",
    ("cifar10", "table2"): "03",
    ("cifar10", "fig3a"): "04",
    ("cifar10", "fig3b"): "05",
    ("cifar10", "beyond"): "06",
    ("cifar10", "literal"): "06_solvers",
    ("cifar100", "table1"): "01",
    ("cifar100", "table2"): "03",
    ("cifar100", "fig3a"): "04",
    ("cifar100", "literal"): "06_solvers",
}
COVER = ("cifar10", "03_gains", "docs/cifar10_gains.png")  # the README's picture
VERDICT = """# Which claims of the paper hold in the rows of this folder

Differences are in points, paired by seed, with half their 95 % interval. The base is the compressor, fine-tuned on the few
images with the same early stopping as every other variant. *OOD images, labels ignored* is the base with as many OOD images in
its recovery. *Labels redrawn* is the reading of the paper's journal version. *Whole pool* is this package's own recommendation
and not the paper's. A number of steps names a training shorter than the published one. The project's README says which reading
of the paper these rows are of, and what is doubted.

"""
MARKS = re.compile(r"<!-- (found|verdict|solvers|missing|timing|quality) (\S+) -->\n(?:.*?\n)??<!-- end -->", re.S)


def kept() -> Path:
    return project_root() / "outputs"


def packed() -> list[tuple[str, str]]:
    """(profile, grid) of every tidy file of the repository."""
    return [tuple(path.stem.rsplit("-", 1)) for path in sorted((kept() / "results").glob("*.jsonl"))]


def packed_rows(folder: Path) -> Store:
    """A store of the tidy files alone, copied into ``folder``."""
    for path in (kept() / "results").glob("*.jsonl"):
        shutil.copy(path, writable_folder(folder))
    return Store(folder)


def pages_with_numbers() -> list[Path]:
    """The texts that :func:`filled` keeps in step with the rows."""
    return [
        project_root() / "README.md",
        kept() / "README.md",
        project_root() / "docs" / "results.md",
        project_root() / "docs" / "timings.md",
    ]


def table(profile: str, name: str, store: Store):
    """Mean, sd and 95 % interval of every setting of a grid."""
    return summaries.means(store.rows({e.key for e in grid.load_grid(name, profile).experiments}))


def verdict_page(store: Store) -> str:
    """``outputs/verdict.md``."""
    return f"{VERDICT}{markdown.markdown(verdict.rows_by_grid('paper', store))}\n"


def filled(text: str, store: Store) -> str:
    """A text with what stands between its marks, ``<!-- verdict PROFILE -->`` ... ``<!-- end -->`` (or found, solvers or missing
    and a profile, timing or quality and the name of a file of ``outputs/bench/``), made from rows and benches."""

    def block(match: re.Match) -> str:
        kind, of = match[1], match[2]
        if kind == "verdict":
            made = markdown.markdown(verdict.rows_by_grid(of, store))
        elif kind == "found":
            made = markdown.found_markdown(verdict.rows_by_grid(of, store))
        elif kind == "solvers":
            made = markdown.solver_markdown(verdict.rows_by_grid(of, store).get("literal", ()))
        elif kind == "missing":
            made = markdown.missing_markdown(of, store)
        else:
            made = {"timing": timings.timing_markdown, "quality": timings.quality_markdown}[kind](kept() / "bench" / of)
        return f"<!-- {kind} {of} -->\n{made}\n<!-- end -->"

    return MARKS.sub(block, text)


def redo() -> None:
    """Write all of it; a picture whose grid has no packed rows is left out."""
    with tempfile.TemporaryDirectory() as apart:
        store = packed_rows(Path(apart) / "results")
        tables = {place: table(*place, store) for place in packed()}
        texts = {path: filled(path.read_text(), store) for path in pages_with_numbers()}
        page = verdict_page(store)
        drawn = pictures(Path(apart))
        # Nothing is replaced before all of it is there.
        for profile in {profile for profile, _ in PICTURES}:
            for old in (kept() / "tables" / profile).glob("*.csv"):
                old.unlink()
        for (profile, name), made in tables.items():
            summaries.to_csv(made, kept() / "tables" / profile / f"{name}.csv")
        for path, place in drawn:
            shutil.copy(path, writable_folder(place.parent) / place.name)
        write_whole(kept() / "verdict.md", page)
        for path, text in texts.items():
            write_whole(path, text)
    print(
        f"{len(tables)} tables, {len(drawn)} pictures, the verdict and the numbers of {len(texts)} pages are those of the packed rows"
    )


def pictures(outputs: Path) -> list[tuple[Path, Path]]:
    """Draw under ``outputs``, which has the rows; [(a picture, where the repository keeps it)]."""
    wanted = {place: start for place, start in PICTURES.items() if place in packed()}
    before = os.environ.get("OEFSMC_OUTPUTS")
    os.environ["OEFSMC_OUTPUTS"] = str(outputs)
    try:
        for profile, start in sorted({(profile, start[:2]) for (profile, _), start in wanted.items()}):
            session.run_all(profile, [start])
    finally:
        os.environ.pop("OEFSMC_OUTPUTS")
        if before is not None:
            os.environ["OEFSMC_OUTPUTS"] = before
    found = []
    for (profile, _), start in wanted.items():
        here = sorted((outputs / "figures" / profile).glob(f"{start}*.png"))
        found += [(path, kept() / "figures" / profile / path.name) for path in here]
    cover = outputs / "figures" / COVER[0] / f"{COVER[1]}.png"
    return found + ([(cover, project_root() / COVER[2])] if cover.is_file() else [])


if __name__ == "__main__":
    try:
        redo()
    except InputError as error:
        raise SystemExit(f"oefsmc: {error}") from error
