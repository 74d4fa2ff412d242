"""The numbered notebooks as the repository keeps them: executed with their defaults, with outputs and a stamp.

    python -m oefsmc_lib.notebook.kept            # `make notebooks`; names of notebooks may follow, such as 01 02

On the web nobody runs anything, so a reader sees what stands in the files.
"""

import hashlib
import json
import sys
from collections.abc import Sequence

from oefsmc_lib import __version__
from oefsmc_lib.errors import InputError
from oefsmc_lib.files import outputs_folder, write_whole
from oefsmc_lib.notebook import session
from oefsmc_lib.parameters.experiment import ALGORITHM_VERSION

PROFILE = "embedded"  # the default of every notebook
CLAIM = "NBVAL_CHECK_OUTPUT"  # marks the cells whose outputs are the same on every machine


def stamp(notebook) -> dict[str, str | int]:
    """What a notebook's outputs belong to: the versions of package and algorithm, and a digest.

    The digest covers every code cell, the parameters among them, and the outputs of the cells that carry a claim. So
    an edit of code without a new execution shows, and an edit of prose does not matter.
    """
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    seen = [[cell.source, *(output.get("text") for output in cell.outputs if CLAIM in cell.source)] for cell in cells]
    digest = hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:16]
    return {"version": __version__, "algorithm": ALGORITHM_VERSION, "digest": digest}


def with_outputs(notebook, executed):
    """``notebook`` with the outputs of its ``executed`` copy, the types of its slides, and its :func:`stamp`.

    Papermill's own cell and times stay behind, and so does what was written to stderr: progress and waiting.
    Raises :class:`InputError` where the two have other sources.
    """
    ran = [cell for cell in executed.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    count = 0
    for cell, copy in zip(notebook.cells, ran, strict=True):
        if cell.source != copy.source:
            raise InputError(f"A cell was edited while the notebook ran; run again: {cell.source[:60]!r}")
        if cell.cell_type == "code":
            count += 1
            cell.execution_count, cell.outputs = count, _joined(copy.outputs)
            for output in cell.outputs:
                if "execution_count" in output:
                    output["execution_count"] = count
    for before, cell in zip([None, *notebook.cells], notebook.cells):
        # A slide is a text and the figure that it asks about, which the lecturer shows with the next key.
        figure = any("image/png" in output.get("data", {}) for output in cell.get("outputs", []))
        cell.metadata["slideshow"] = {"slide_type": "fragment" if figure else "skip"}
        if figure or before is None:
            (before or cell).metadata["slideshow"] = {"slide_type": "slide"}
    notebook.metadata["oefsmc"] = stamp(notebook)
    return notebook


def _joined(outputs: Sequence) -> list:
    """Outputs without stderr, with neighbouring pieces of stdout as one: how it comes in pieces depends on the time."""
    found: list = []
    for output in outputs:
        if output.get("name") == "stderr":
            continue
        if found and output.output_type == found[-1].output_type == "stream":
            found[-1].text += output.text
        else:
            found.append(output)
    return found


def write_back(only: Sequence[str] = ()) -> None:
    """Execute the notebooks that start with these names, or all, and write them back; none where one fails."""
    import nbformat

    session.run_all(PROFILE, only or None)
    folder = outputs_folder() / "executed" / PROFILE
    chosen = [path for path in session.narrative() if path.stem.startswith(tuple(only or [""]))]
    made = {path: with_outputs(nbformat.read(path, 4), nbformat.read(folder / path.name, 4)) for path in chosen}
    for path, notebook in made.items():
        write_whole(path, nbformat.writes(notebook) + "\n")
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    try:
        write_back(sys.argv[1:])
    except InputError as error:
        raise SystemExit(f"oefsmc: {error}") from error
