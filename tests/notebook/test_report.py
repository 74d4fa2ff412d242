"""The report is one page that needs nothing else."""

import re

import nbformat
import pytest

from oefsmc_lib.errors import InputError
from oefsmc_lib.notebook import report

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@pytest.fixture()
def book(tmp_path):
    v4 = nbformat.v4
    text = "# A title\n\nHere is $\\Gamma_j$, `$HOME` and\n\n$$x = \\frac{1}{2}$$\n\n[next](02_method.ipynb)"
    slider = {"application/vnd.jupyter.widget-view+json": {"model_id": "x"}, "text/plain": "VBox()"}
    outputs = [v4.new_output("display_data", data) for data in ({"image/png": PIXEL}, slider)]
    cells = [v4.new_markdown_cell(text), v4.new_code_cell("1 + 1", outputs=outputs)]
    path = tmp_path / "01_problem_demonstration.ipynb"
    nbformat.write(v4.new_notebook(cells=cells), path)
    return path


def test_the_page_holds_pictures_formulas_and_verdict_and_loads_nothing(book):
    page = report.page("embedded", {}, [book])
    assert "data:image/png;base64" in page and "<math" in page and "<mfrac>" in page and "$HOME" in page
    assert "not run" in page and "imbalance" in page
    assert 'href="#02_method"' in page and "VBox" not in page
    assert not re.search(r'(src|href)="(https?:)?//', page) and "<script" not in page


def test_without_executed_notebooks_the_command_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("OEFSMC_OUTPUTS", str(tmp_path))
    with pytest.raises(InputError, match="run `oefsmc figures --profile embedded` first"):
        report.write("embedded")
    assert not (tmp_path / "report").exists()
