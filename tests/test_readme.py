"""Numbers in the README come from the committed rows."""

import re
import shutil

import pandas
import pytest

from oefsmc_lib import benches, grid, summaries, verdict
from oefsmc_lib.paths import project_root
from oefsmc_lib.results import Store

OUTPUTS = project_root() / "outputs"
README = (project_root() / "README.md").read_text()


@pytest.fixture
def committed(tmp_path):
    """A store of the packed rows alone, without what runs here have left."""
    for packed in (OUTPUTS / "results").glob("*.jsonl"):
        shutil.copy(packed, tmp_path)
    return Store(tmp_path)


def test_the_verdict_in_the_readme_is_that_of_the_committed_rows(committed):
    profile, shown = re.search(r"<!-- verdict (\S+) -->\n(.*?)\n<!-- end -->", README, flags=re.S).groups()
    rows = verdict.rows_by_grid(profile, committed)
    assert shown.strip() == verdict.markdown(rows).strip(), \
        f"replace the text between the marks by the output of `oefsmc verdict --profile {profile} --markdown`"


def test_the_verdict_in_outputs_is_that_of_the_committed_rows(committed):
    shown = (OUTPUTS / "verdict.md").read_text().partition("\n\n")[2]
    assert shown.strip() == verdict.markdown(verdict.rows_by_grid("paper", committed)).strip(), "run `make evidence`"


def test_tables_in_outputs_are_those_of_the_committed_rows(committed, tmp_path):
    packed = {tuple(path.stem.rsplit("-", 1)) for path in (OUTPUTS / "results").glob("*.jsonl")}
    kept = {(path.parent.name, path.stem) for path in (OUTPUTS / "tables").glob("*/*.csv") if path.parent.name != "embedded"}
    assert packed == kept, "run `make evidence`"
    for profile, name in packed:
        rows = committed.rows({e.key for e in grid.load_grid(name, profile).experiments})
        summaries.to_csv(summaries.means(rows), tmp_path / "fresh.csv")
        shown, fresh = (pandas.read_csv(path) for path in (OUTPUTS / "tables" / profile / f"{name}.csv", tmp_path / "fresh.csv"))
        pandas.testing.assert_frame_equal(shown, fresh, rtol=1e-6)


def test_the_seconds_in_the_readme_are_those_of_the_committed_bench():
    name, shown = re.search(r"<!-- timing (\S+) -->\n(.*?)\n<!-- end -->", README, flags=re.S).groups()
    assert shown.strip() == benches.markdown(OUTPUTS / "bench" / name).strip(), \
        "replace the text between the marks by what `oefsmc_lib.benches.markdown` makes of this file"


def test_every_link_in_the_readme_leads_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (project_root() / target).exists(), target


def test_every_make_target_that_the_readme_names_exists():
    targets = set(re.findall(r"^([a-z-]+):", (project_root() / "Makefile").read_text(), flags=re.M))
    named = re.findall(r"(?:^|`)make (?:[A-Z]+=\S+ )?([a-z][a-z-]*)", README, flags=re.M)  # in backticks or on a command line
    assert {"figures", "test"} <= set(named) <= targets
