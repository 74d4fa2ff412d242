"""Numbers in the README come from the committed rows."""

import re

from oefsmc_lib import benches, grid, results, verdict
from oefsmc_lib.paths import project_root
from oefsmc_lib.results import Store

OUTPUTS = project_root() / "outputs"
README = (project_root() / "README.md").read_text()


def test_the_verdict_in_the_readme_is_that_of_the_committed_rows():
    profile, shown = re.search(r"<!-- verdict (\S+) -->\n(.*?)\n<!-- end -->", README, flags=re.S).groups()
    rows = verdict.rows_by_grid(profile, Store(OUTPUTS / "results"))
    assert shown.strip() == verdict.markdown(rows).strip(), \
        f"replace the text between the marks by the output of `oefsmc verdict --profile {profile} --markdown`"


def test_tables_and_verdict_in_outputs_are_those_of_the_committed_rows(tmp_path):
    store = Store(OUTPUTS / "results")
    stale = "run `make evidence`"
    assert (OUTPUTS / "verdict.md").read_text().strip() == verdict.markdown(verdict.rows_by_grid("paper", store)).strip(), stale
    for packed in sorted((OUTPUTS / "results").glob("*.jsonl")):
        profile, name = packed.stem.rsplit("-", 1)
        rows = store.rows({e.key for e in grid.load_grid(name, profile).experiments})
        results.to_csv(results.summary(rows, results.varying_columns(rows)), tmp_path / "fresh.csv")
        assert (OUTPUTS / "tables" / profile / f"{name}.csv").read_text() == (tmp_path / "fresh.csv").read_text(), stale


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
