"""Numbers in the README and tables in outputs/ come from the committed rows; what the README names is there."""

import re
import shlex
import shutil
import statistics

import pandas
import pytest
import typer

from oefsmc_lib import cli
from oefsmc_lib.cli import grids
from oefsmc_lib.cli.words import settings_of
from oefsmc_lib.evidence import answers, pairs, tables, verdict
from oefsmc_lib.files import project_root
from oefsmc_lib.notebook import publish
from oefsmc_lib.parameters import profiles
from oefsmc_lib.rows.store import Store

OUTPUTS = project_root() / "outputs"
README = (project_root() / "README.md").read_text()
RESULTS = (project_root() / "docs" / "results.md").read_text()
REDO = "run `make evidence`"


@pytest.fixture
def committed(tmp_path):
    """A store of the packed rows alone, without what runs here have left."""
    return publish.packed_rows(tmp_path / "results")


def test_the_numbers_in_the_readme_are_those_of_the_committed_rows_and_benches(committed):
    pages = {path.name: path.read_text() for path in publish.pages_with_numbers() if path.parent.name != "outputs"}
    marks = {name: {match[1] for match in publish.MARKS.finditer(text)} for name, text in pages.items()}
    assert marks == {"README.md": {"found", "artefacts"}, "results.md": {"verdict", "stopping", "settings", "solvers"},
                     "timings.md": {"timing", "quality", "steps", "precision", "latency"}, "shipping.md": {"shipping"},
                     "trust.md": {"agreement", "mutants", "coverage", "matrix"}}
    for name, text in pages.items():
        assert publish.filled(text, committed) == text, f"{name}: {REDO}"


def test_the_readme_is_read_in_a_few_minutes():
    assert len(README.splitlines()) <= 150 and len(README.split()) <= 1200


def test_what_is_missing_is_listed_beside_the_rows(committed):
    text = (OUTPUTS / "README.md").read_text()
    assert [match[1] for match in publish.MARKS.finditer(text)] == ["devices", "missing"]
    assert publish.filled(text, committed) == text, REDO
    assert OUTPUTS / "README.md" in publish.pages_with_numbers()


def test_what_the_page_says_of_two_precisions_holds_in_the_rows(committed, tmp_path):
    (tmp_path / "again").mkdir()
    shutil.copy(OUTPUTS / "results" / "earlier" / "float32-practise-cifar10.jsonl", tmp_path / "again")
    again = Store(tmp_path / "again").rows()
    first = answers.select(verdict.rows_by_grid("cifar10", committed)["table1"], method="practise", variant="native", num=10,
                           imbalance="long_tail")
    assert {row.key for row in again} == {row.key for row in first} and {row.mimic_precision for row in again} == {"float32"}
    assert {(row.seed, *row.dropped, row.mimic_steps) for row in again} == {(row.seed, *row.dropped, row.mimic_steps) for row in first}
    one = pairs.against(again, first)
    assert f"was right {one['mean']:.2f} ± {one['half']:.2f} points more often" in (OUTPUTS / "README.md").read_text()


def test_what_the_page_says_about_stopping_with_cd_on_cifar100_holds_in_the_rows(committed):
    rows = answers.select(verdict.rows_by_grid("cifar100", committed)["table2"], method="cd")
    kept = {v: statistics.median(row.finetune_kept for row in answers.select(rows, variant=v)) for v in ("native_ft", "ours")}
    assert kept["native_ft"] >= 20 and kept["ours"] <= 5
    assert [line["verdict"] for line in verdict.lines(rows, "extra_images").values()].count("below") == 0
    at_200 = {v: answers.select(rows, variant=v, num=200) for v in ("native_ft", "ours")}       # closer, and less accurate
    distance, accuracy = ({v: statistics.mean(value(row) for row in own) for v, own in at_200.items()} for value in (
        lambda row: min(row.finetune_distances), lambda row: row.top1))
    assert distance["ours"] < distance["native_ft"] and accuracy["ours"] < accuracy["native_ft"]


def test_what_the_page_on_your_own_network_says_of_its_recipe_holds_in_the_rows(committed):
    table2 = {profile: verdict.rows_by_grid(profile, committed)["table2"] for profile in ("cifar10", "cifar100")}

    def mean(profile, method, variant, num):
        return answers.mean(table2[profile], method=method, variant=variant, num=num, imbalance="long_tail")
    for num in (10, 20, 50, 100):
        every = {(row.method, row.variant) for row in table2["cifar10"] if row.num == num}
        assert ("cd", "ours") in every and max(every, key=lambda each: mean("cifar10", *each, num)) == ("fskd", "whole_pool")
    sizes = answers.select(verdict.rows_by_grid("cifar10", committed)["fig3b"], imbalance="long_tail")
    for group in {(row.method, row.variant, row.num, answers.column(row, "m")) for row in sizes}:
        method, variant, num, m = group
        other = [row for row in answers.select(sizes, method=method, variant=variant, num=num) if answers.column(row, "m") == m]
        one = pairs.against(other, answers.select(table2["cifar10"], method="fskd", variant="whole_pool", num=num))
        assert one["mean"] <= one["half"], group
    for num in (100, 200, 500):
        assert mean("cifar100", "cd", "native", num) > mean("cifar100", "fskd", "whole_pool", num)
        assert mean("cifar100", "cd", "whole_pool", num) < mean("cifar100", "cd", "native_ft", num)


def test_a_number_typed_into_the_readme_is_replaced(committed):
    row = next(line for line in RESULTS.splitlines() if line.startswith("| cifar10 | CD | 10 |"))
    assert publish.filled(RESULTS.replace(row, "| cifar10 | CD | 10 | 5 | 99.9 |"), committed) == RESULTS


def test_an_empty_block_takes_nothing_of_what_follows(committed):
    timings = (project_root() / "docs" / "timings.md").read_text()
    mark = next(match[0].splitlines()[0] for match in publish.MARKS.finditer(timings) if match[1] == "timing")
    whole = next(match[0] for match in publish.MARKS.finditer(timings) if match[0].startswith(mark))
    text = f"{mark}\n<!-- end -->\n\nbetween\n\n{whole}\n"
    assert publish.filled(text, committed) == f"{whole}\n\nbetween\n\n{whole}\n"


def test_tables_in_outputs_are_those_of_the_committed_rows(committed, tmp_path):
    kept = {(path.parent.name, path.stem) for path in (OUTPUTS / "tables").glob("*/*.csv") if path.parent.name != "embedded"}
    assert set(publish.packed()) == kept, REDO
    for profile, name in kept:
        tables.to_csv(publish.table(profile, name, committed), tmp_path / "fresh.csv")
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
    monkeypatch.setattr(publish.session, "run_all", run_all)
    monkeypatch.setattr(publish.shipping, "rows", lambda: None)
    monkeypatch.setattr(publish, "packed", lambda: [("cifar10", "table2"), ("cifar100", "fig3a"), ("cifar10", "problem")])
    found = publish.pictures(tmp_path)
    assert drawn == [("cifar10", "03"), ("cifar100", "04")]
    kept = OUTPUTS / "figures"
    assert [place for _, place in found] == [kept / "cifar10" / "03_gains.png", kept / "cifar10" / "03_groups.png",
                                            kept / "cifar100" / "04_ablation.png"]
    assert found[-1][0].read_text() == "cifar100"


def test_the_readme_leads_with_figures_of_real_images():
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)
    assert shown == ["outputs/figures/cifar10/03_gains.png", "outputs/figures/cifar100/03_gains.png"]
    assert all((project_root() / path).is_file() for path in shown)


PAGES = ("README.md", "outputs/README.md", "notebooks/README.md", *(f"docs/{name}.md" for name in (
    "results", "timings", "shipping", "own_network", "trust", "grids", "words", "troubleshooting", "contributing")))
# What stands for something in a text -> something.
STAND = {"GRID": "table1", "[GRID]": "table1", "P": "cifar10", "PROFILE": "cifar10", "NAME": "cifar10", "FOLDER": "outputs", "...": ""}


def commands(page: str, program: str) -> list[list[str]]:
    """The words of each command of a page, in code blocks and between backticks, without comments."""
    text = (project_root() / page).read_text()
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, flags=re.S)).replace("\\\n", " ")
    spoken = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
    lines = [line for line in [*blocks.splitlines(), *spoken] if re.match(rf"{program}\b(?! ?/)", line)]
    alternatives = [re.sub(r"\w+(\|\w+)+", choice, line) for line in lines
                    for choice in (re.search(r"\w+(?:\|\w+)+", line) or [program])[0].split("|")]
    return [[STAND.get(word, word) for word in shlex.split(line, comments=True)] for line in alternatives]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_the_pages_is_one(page, monkeypatch, capsys, tmp_path):
    """Grids are run dry; of the others words, options and switches are read, and what they would do is left out."""
    monkeypatch.setenv("OEFSMC_OUTPUTS", str(tmp_path))
    found = [words for words in commands(page, "oefsmc") if words[1:]]
    assert found or page.startswith(("docs/results", "docs/words", "docs/contributing", "docs/timings"))
    for words in found:
        command, rest = typer.main.get_command(cli.app), [word for word in words[1:] if word]
        while rest and hasattr(command, "commands"):
            assert rest[0] in command.commands, words
            command, rest = command.commands[rest[0]], rest[1:]
        if not rest or "--help" in rest or hasattr(command, "commands"):  # the name alone, or its help
            continue
        given = command.make_context(" ".join(words), [*rest]).params  # refuses unknown options and missing arguments
        if words[1] in ("run", "teacher") and "settings" in given:
            chosen = settings_of(given["settings"])
            profiles.profile_for(chosen, given["profile"]).experiment(chosen)
        if words[1] == "grid" and words[2] == "run":
            grids.grid_run(**given | {"dry_run": True})
            assert " runs, " in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_the_pages_leads_somewhere(page):
    path = project_root() / page
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).is_file(), f"{page}: {target}"


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_that_the_pages_name_exists(page):
    targets = set(re.findall(r"^([a-z-]+):", (project_root() / "Makefile").read_text(), flags=re.M))
    named = {word for words in commands(page, "make") for word in words[1:2] if re.fullmatch("[a-z-]+", word)}
    assert named <= targets, named - targets
    assert page != "README.md" or {"figures", "test", "site"} <= named


@pytest.mark.parametrize("page", PAGES)
def test_every_workflow_profile_that_the_pages_name_exists(page):
    for words in commands(page, "snakemake"):
        if "--workflow-profile" in words:
            assert (project_root() / words[words.index("--workflow-profile") + 1] / "config.yaml").is_file(), words


def test_the_paper_has_its_public_identifier():
    for text in (README, (project_root() / "CITATION.cff").read_text()):
        assert "2502.05832" in text and "10.1016/j.patrec.2026.01.010" in text
