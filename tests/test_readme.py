"""Numbers in the README and tables in outputs/ come from the committed rows; what the README names is there."""

import re

import pandas
import pytest

from oefsmc_lib import evidence, summaries
from oefsmc_lib.paths import project_root

OUTPUTS = project_root() / "outputs"
README = (project_root() / "README.md").read_text()
REDO = "run `make evidence`"


@pytest.fixture
def committed(tmp_path):
    """A store of the packed rows alone, without what runs here have left."""
    return evidence.packed_rows(tmp_path / "results")


def test_the_numbers_in_the_readme_are_those_of_the_committed_rows_and_benches(committed):
    marks = {match[1] for match in evidence.MARKS.finditer(README)}
    assert marks == {"verdict", "solvers", "timing", "quality"}
    assert evidence.filled(README, committed) == README, REDO


def test_what_is_missing_is_listed_beside_the_rows(committed):
    text = (OUTPUTS / "README.md").read_text()
    assert [match[1] for match in evidence.MARKS.finditer(text)] == ["missing"]
    assert evidence.filled(text, committed) == text, REDO
    assert set(evidence.pages_with_numbers()) == {project_root() / "README.md", OUTPUTS / "README.md"}


def test_a_number_typed_into_the_readme_is_replaced(committed):
    row = next(line for line in README.splitlines() if line.startswith("| cifar10 | CD | 10 |"))
    assert evidence.filled(README.replace(row, "| cifar10 | CD | 10 | 5 | 99.9 |"), committed) == README


def test_an_empty_block_takes_nothing_of_what_follows(committed):
    mark = next(match[0].splitlines()[0] for match in evidence.MARKS.finditer(README) if match[1] == "timing")
    whole = next(match[0] for match in evidence.MARKS.finditer(README) if match[0].startswith(mark))
    text = f"{mark}\n<!-- end -->\n\nbetween\n\n{whole}\n"
    assert evidence.filled(text, committed) == f"{whole}\n\nbetween\n\n{whole}\n"


def test_the_verdict_in_outputs_is_that_of_the_committed_rows(committed):
    assert (OUTPUTS / "verdict.md").read_text() == evidence.verdict_page(committed), REDO


def test_tables_in_outputs_are_those_of_the_committed_rows(committed, tmp_path):
    kept = {(path.parent.name, path.stem) for path in (OUTPUTS / "tables").glob("*/*.csv") if path.parent.name != "embedded"}
    assert set(evidence.packed()) == kept, REDO
    for profile, name in kept:
        summaries.to_csv(evidence.table(profile, name, committed), tmp_path / "fresh.csv")
        shown, fresh = (pandas.read_csv(path) for path in (OUTPUTS / "tables" / profile / f"{name}.csv", tmp_path / "fresh.csv"))
        pandas.testing.assert_frame_equal(shown, fresh, rtol=1e-6)


def test_pictures_are_asked_for_where_rows_are_packed_and_each_is_kept(monkeypatch, tmp_path):
    drawn = []

    def run_all(profile, only):
        drawn.append((profile, *only))
        for name in ("03_gains", "03_groups", "04_ablation"):
            path = tmp_path / "figures" / profile / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(profile)
    monkeypatch.setattr(evidence.books, "run_all", run_all)
    monkeypatch.setattr(evidence, "packed", lambda: [("cifar10+cpu", "table2"), ("cifar100", "fig3a"), ("cifar10", "fig3b")])
    found = evidence.pictures(tmp_path)
    assert drawn == [("cifar10+cpu", "03"), ("cifar100", "04")]
    kept = OUTPUTS / "figures"
    assert [place for _, place in found] == [kept / "cifar10+cpu" / "03_gains.png", kept / "cifar10+cpu" / "03_groups.png",
                                            kept / "cifar100" / "04_ablation.png", project_root() / "docs" / "cifar10_gains.png"]
    assert found[-1][0].read_text() == "cifar10+cpu"


def test_every_link_in_the_readme_leads_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (project_root() / target).exists(), target


def test_every_make_target_that_the_readme_names_exists():
    targets = set(re.findall(r"^([a-z-]+):", (project_root() / "Makefile").read_text(), flags=re.M))
    named = re.findall(r"(?:^|`)make (?:[A-Z]+=\S+ )?([a-z][a-z-]*)", README, flags=re.M)  # in backticks or on a command line
    assert {"figures", "test"} <= set(named) <= targets
