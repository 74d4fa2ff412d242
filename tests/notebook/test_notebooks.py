"""Hygiene of the notebooks, their parameters, and what the claim cells compare."""

import ast
import importlib
import json
import re
import statistics

import nbformat
import pytest

from oefsmc_lib.engine import kernels
from oefsmc_lib.errors import InputError
from oefsmc_lib.files import project_root
from oefsmc_lib.notebook import kept, session

FOLDER = project_root() / "notebooks"
ALL = sorted(FOLDER.glob("*.ipynb"))
NARRATIVE = [path for path in ALL if re.match(r"\d\d_", path.name)]


def read(path):
    return nbformat.read(path, as_version=4)


def code(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def lines(cell):
    return [line for line in cell.source.splitlines() if line.strip()]


def test_the_notebooks_are_there():
    assert [path.stem[:2] for path in NARRATIVE] == ["00", "01", "02", "03", "04", "05", "06", "07", "08"]
    assert (FOLDER / "batch.ipynb").is_file()


@pytest.mark.parametrize("path", ALL, ids=lambda p: p.stem)
def test_hygiene(path):
    nbformat.validate(read(path))
    assert path.stat().st_size < 1_500_000
    lengths = [len(lines(cell)) for cell in code(path)]
    assert max(lengths) <= 20
    assert statistics.median(lengths) <= 8
    for cell in code(path):
        ast.parse(re.sub(r"^[%!].*$", "", cell.source, flags=re.M))
        if kept.CLAIM in cell.source:
            assert cell.execution_count and [output.output_type for output in cell.outputs] == ["stream"], "nbval compares text alone"
        kinds = {kind for output in cell.outputs for kind in output.get("data", {})}
        assert kinds <= {"text/plain", "text/html", "image/png", "image/svg+xml"}, "what every viewer shows"
        assert all(output.get("name") != "stderr" and output.output_type != "error" for output in cell.outputs)
    for cell in read(path).cells:
        said = [cell.source, *(output.get("text", output.get("data", {}).get("text/plain", "")) for output in cell.get("outputs", []))]
        assert not re.search(r"(/home/|/root/|/tmp/|/work/|[A-Z]:\\)", "\n".join(said)), "a path of one machine"


@pytest.mark.parametrize("path", NARRATIVE, ids=lambda p: p.stem)
def test_outputs_are_current(path):
    """Nothing is executed and no pixel compared: the stamp names the versions and every code cell that the outputs belong to."""
    notebook = read(path)
    assert notebook.metadata.get("oefsmc") == kept.stamp(notebook), f"run `make notebooks ONLY={path.stem[:2]}` and commit it"
    counts = [cell.execution_count for cell in code(path)]
    assert counts == list(range(1, len(counts) + 1))
    assert sum("image/png" in output.get("data", {}) for cell in code(path) for output in cell.outputs) >= 1


def test_a_stamp_follows_code_and_claims_and_not_prose():
    notebook = read(NARRATIVE[0])
    first = kept.stamp(notebook)
    notebook.cells[0].source += " More prose."
    assert kept.stamp(notebook) == first
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    cells[0].source = cells[0].source.replace("embedded", "cifar10")                  # the parameters
    changed = kept.stamp(notebook)
    assert changed["digest"] != first["digest"]
    next(cell for cell in cells if kept.CLAIM in cell.source).outputs[0].text += "more"
    assert kept.stamp(notebook)["digest"] != changed["digest"]


def test_outputs_come_back_without_what_papermill_added():
    def cell(source, outputs=(), **metadata):
        return nbformat.v4.new_code_cell(source, outputs=list(outputs), metadata=metadata)

    def said(text, name="stdout"):
        return nbformat.v4.new_output("stream", name=name, text=text)
    picture = nbformat.v4.new_output("display_data", {"image/png": "aGk=", "text/plain": "<Figure>"})
    texts = [nbformat.v4.new_markdown_cell(text) for text in ("# Title", "Which is higher?")]
    ours = nbformat.v4.new_notebook(cells=[texts[0], cell("a = 1", tags=["parameters"]), texts[1], cell("draw()")])
    ran = [texts[0], cell("a = 1", tags=["parameters"]), cell("a = 1", tags=["injected-parameters"]), texts[1],
           cell("draw()", [said("one "), said("late", "stderr"), said("two"), picture], papermill={"duration": 1.0})]
    found = kept.with_outputs(ours, nbformat.v4.new_notebook(cells=ran))
    assert [len(each.get("outputs", [])) for each in found.cells] == [0, 0, 0, 2]
    assert found.cells[3].outputs[0].text == "one two" and found.cells[3].execution_count == 2
    assert "papermill" not in found.cells[3].metadata
    assert [each.metadata["slideshow"]["slide_type"] for each in found.cells] == ["slide", "skip", "slide", "fragment"]
    ours.cells[3].source = "draw(again)"
    with pytest.raises(InputError, match="edited while the notebook ran"):
        kept.with_outputs(ours, nbformat.v4.new_notebook(cells=ran))


@pytest.mark.parametrize("path", ALL, ids=lambda p: p.stem)
def test_what_a_notebook_takes_from_the_library_is_there(path):
    """In seconds, not in the minutes that nbval takes."""
    tree = ast.parse("\n".join(re.sub(r"^[%!].*", "", cell.source, flags=re.M) for cell in code(path)))
    modules = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("oefsmc_lib"):
            for alias in node.names:
                try:
                    found = importlib.import_module(f"{node.module}.{alias.name}")
                except ModuleNotFoundError:
                    assert hasattr(importlib.import_module(node.module), alias.name), f"{node.module}.{alias.name}"
                    continue
                modules[alias.asname or alias.name] = found
    assert modules
    missing = {f"{node.value.id}.{node.attr}" for node in ast.walk(tree) if isinstance(node, ast.Attribute)
               and isinstance(node.value, ast.Name) and node.value.id in modules
               and not hasattr(modules[node.value.id], node.attr)}
    assert not missing


@pytest.mark.parametrize("path", NARRATIVE, ids=lambda p: p.stem)
def test_a_narrative_notebook_is_complete(path):
    cells = read(path).cells
    told = [cell for cell in cells if "check" not in cell.metadata.get("tags", [])]        # those check an exercise
    assert (15 if path.stem.startswith("00") else 25) <= len(told) <= 45
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")
    headings = [line.strip("# ").lower() for cell in cells if cell.cell_type == "markdown"
                for line in cell.source.splitlines() if line.startswith("#")]
    for wanted in ("takeaways", "questions", "exercises", "next"):
        assert any(wanted in heading for heading in headings), wanted
    assert sum("NBVAL_CHECK_OUTPUT" in cell.source for cell in code(path)) >= 3
    for before, cell in zip(cells, cells[1:]):
        if cell.cell_type == "code":
            first = before.cell_type == "markdown" or {"solution", "check"} & set(cell.metadata.get("tags", []))
            assert first, f"no sentence before: {cell.source[:60]}"


@pytest.mark.parametrize("path", ALL, ids=lambda p: p.stem)
def test_parameters_are_what_papermill_reads(path):
    import papermill
    tagged = [cell for cell in code(path) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    known = papermill.inspect_notebook(str(path))
    for line in lines(tagged[0]):
        match = re.fullmatch(r"(\w+): (str|int|float|bool) = ([^=|]+?)  # ([^=|]+)", line)
        assert match, f"not `name: type = value  # help`: {line}"
        entry = known[match[1]]
        assert entry["inferred_type_name"] == match[2]
        assert entry["default"] == match[3]
        assert entry["help"].strip() == match[4].strip()
    if re.match(r"\d\d_", path.name):
        assert known["profile"]["default"] == '"embedded"' and known["compute"]["default"] == "False"


@pytest.mark.parametrize("path", NARRATIVE, ids=lambda p: p.stem)
def test_prose_has_no_typed_accuracy(path):
    """Numbers in prose come from rows: a percentage with a decimal in markdown was typed by someone."""
    for cell in read(path).cells:
        if cell.cell_type == "markdown":
            assert not re.search(r"\d+\.\d+\s?(%|percent|points)", cell.source), cell.source


def test_books_refuses_an_unknown_parameter(tmp_path):
    with pytest.raises(InputError, match="has no parameter 'profil'"):
        kernels.execute(FOLDER / "batch.ipynb", tmp_path / "out.ipynb", {"profil": "embedded"})


def test_a_notebook_that_raises_is_kept_with_its_error(tmp_path):
    with pytest.raises(kernels.NotebookFailed, match="AssertionError"):
        kernels.execute(FOLDER / "batch.ipynb", tmp_path / "out.ipynb", {"batch": "no-such-batch"})
    assert "no-such-batch" in json.dumps(json.loads((tmp_path / "out.ipynb").read_text()))


def test_what_the_notebooks_read_is_computed_before_they_run():
    read = {name for path in session.narrative() for name in re.findall(r'book\.rows\(\\"(\w+)\\"', path.read_text())}
    assert read - {"table1"} == set(session.DRAWN)           # table1 is for the paper's profiles; the embedded one draws `problem`


def test_committed_rows_are_of_real_images_and_of_cells_that_have_half_of_the_grid(capsys):
    from oefsmc_lib.parameters import grid
    book = session.Book("embedded")
    for name in ("table1", "fig3a", "fig3b"):
        rows, asked = book.committed(name), grid.load_grid(name, "cifar10").experiments
        assert {row.dataset for row in rows} <= {"cifar10"} and {row.key for row in rows} <= {e.key for e in asked}
        for cell in {(row.method, row.num) for row in rows}:
            assert 2 * sum((row.method, row.num) == cell for row in rows) >= sum((e.method, e.num) == cell for e in asked)
        assert ("no rows yet" in capsys.readouterr().out) == (not rows)
    assert book.committed("table1"), "Table 1 on CIFAR-10 came with this package"
    assert session.Book("cifar10").committed("table1") == [], "its own rows are shown below anyway"
