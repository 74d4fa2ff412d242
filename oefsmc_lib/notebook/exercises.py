"""Student versions of the notebooks: solutions taken out, the cells that check an answer left in."""

from pathlib import Path

from oefsmc_lib.errors import InputError
from oefsmc_lib.files import project_root, write_whole
from oefsmc_lib.notebook.session import narrative

BLANK = "# your solution; the cell below checks it"


def student_version(path: Path) -> str:
    """A notebook as text, whose cells tagged ``solution`` wait for one, without any output.

    Raises :class:`InputError` when the notebook has a solution without a cell that checks it.
    """
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    tags = [tag for cell in notebook.cells for tag in cell.metadata.get("tags", []) if tag in ("solution", "check")]
    if tags != ["solution", "check"] * (len(tags) // 2):
        raise InputError(f"{path.name} has a solution that no cell checks; tag a cell after it `check`.")
    notebook.metadata.pop("oefsmc", None)  # it belongs to the outputs
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        if "solution" in cell.metadata.get("tags", []):
            cell.source = BLANK
    return nbformat.writes(notebook) + "\n"


def write_exercises(folder: Path | None = None) -> list[Path]:
    """Write the student version of every numbered notebook; a file that a student changed is never overwritten.

    Raises :class:`InputError` for such files, after the others are written.
    """
    folder = Path(folder) if folder else project_root() / "notebooks" / "exercises"
    versions = {folder / path.name: student_version(path) for path in narrative()}
    kept = [path for path, text in versions.items() if path.is_file() and path.read_text() != text]
    for path in set(versions) - set(kept):
        write_whole(path, versions[path])
    if kept:
        raise InputError(
            f"{', '.join(sorted(path.name for path in kept))} in {folder} differ from the student versions and "
            "were left as they are; move them away to get fresh ones."
        )
    return sorted(versions)
