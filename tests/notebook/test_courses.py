"""Student versions: no solution inside, checks inside, nothing of a student's overwritten."""

import json
import re

import nbformat
import pytest

from oefsmc_lib.errors import InputError
from oefsmc_lib.notebook import exercises
from oefsmc_lib.notebook.session import narrative


def test_student_versions_hold_no_solution_and_every_check(tmp_path):
    written = exercises.write_exercises(tmp_path)
    assert [path.name for path in written] == [path.name for path in narrative()]
    for original, path in zip(narrative(), written):
        teacher, student = nbformat.read(original, 4), nbformat.read(path, 4)
        nbformat.validate(student)
        assert len(teacher.cells) == len(student.cells)
        solutions = [(a, b) for a, b in zip(teacher.cells, student.cells) if "solution" in a.metadata.get("tags", [])]
        checks = [b for b in student.cells if "check" in b.metadata.get("tags", [])]
        assert solutions and len(checks) == len(solutions)
        for ours, theirs in solutions:
            assert theirs.source == exercises.BLANK and ours.source != exercises.BLANK
        assert all("assert" in cell.source for cell in checks)
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in student.cells)
        assert "oefsmc" not in student.metadata and any(cell.get("outputs") for cell in teacher.cells)


def test_a_student_s_work_is_not_overwritten(tmp_path):
    first, *others = exercises.write_exercises(tmp_path)
    first.write_text(first.read_text().replace(exercises.BLANK, "mine = 1"))
    others[0].unlink()
    with pytest.raises(InputError, match=f"{first.name} .* were left as they are"):
        exercises.write_exercises(tmp_path)
    assert "mine = 1" in first.read_text() and others[0].is_file()


def test_a_solution_without_a_check_is_refused(tmp_path, monkeypatch):
    bare = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x = 1", metadata={"tags": ["solution"]})])
    path = tmp_path / "07_bare.ipynb"
    path.write_text(json.dumps(bare))
    monkeypatch.setattr(exercises, "narrative", lambda: [path])
    with pytest.raises(InputError, match="07_bare.ipynb has a solution that no cell checks"):
        exercises.write_exercises(tmp_path / "out")
    assert not (tmp_path / "out" / path.name).exists()


def test_a_slide_asks_and_the_next_key_shows_the_figure():
    from nbconvert import SlidesExporter
    for path in narrative():
        kinds = [cell.metadata["slideshow"]["slide_type"] for cell in nbformat.read(path, 4).cells]
        assert kinds[0] == "slide" and set(kinds) == {"slide", "fragment", "skip"}
        assert all(before == "slide" for before, kind in zip(kinds, kinds[1:]) if kind == "fragment"), path.stem
    book = nbformat.read(narrative()[0], 4)
    text, _ = SlidesExporter(exclude_input=True).from_notebook_node(book)
    pictures = sum("image/png" in output.get("data", {}) for cell in book.cells for output in cell.get("outputs", []))
    assert len(re.findall(r"<img\s[^>]*data:image/png", text)) == pictures
    assert text.count('class="fragment"') == sum(cell.metadata["slideshow"]["slide_type"] == "fragment" for cell in book.cells)
