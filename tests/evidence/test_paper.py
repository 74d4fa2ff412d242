"""The paper's numbers: all of them, as printed, and the contradictions among them."""

import subprocess
import sys
from collections import Counter

import pytest

from oefsmc_lib.evidence import paper
from oefsmc_lib.evidence.paper import DOUBTS, PRINTED, TABLE1, TABLE2, paper_value, printed


def value(table, **where):
    found = [r.value for r in table if all(getattr(r, name) == wanted for name, wanted in where.items())]
    assert len(found) == 1, where
    return found[0]


def test_every_printed_number_has_one_record():
    # Table 1: four methods, four sizes, two columns and an arrow; Table 2: eight rows of nine columns
    assert Counter((r.table, r.quantity) for r in PRINTED) == {(1, "top1"): 32, (1, "loss"): 16, (2, "top1"): 72}
    places = [(r.table, r.quantity, r.dataset, r.method, r.variant, r.num, r.imbalance) for r in PRINTED]
    assert len(set(places)) == len(places)
    assert {r.method for r in PRINTED} == set(paper.METHOD_NAMES)
    assert all(r.network == paper.NETWORKS[r.dataset] for r in PRINTED)


def test_only_one_loss_of_table_1_differs_from_its_cells():
    wrong = []
    for loss in (r for r in TABLE1 if r.quantity == "loss"):
        cells = [value(TABLE1, method=loss.method, num=loss.num, imbalance=kind, quantity="top1")
                 for kind in ("balanced", "long_tail")]
        if round(cells[0] - cells[1], 2) != loss.value:
            wrong.append((loss.method, loss.num, loss.doubt, round(cells[0] - cells[1], 2)))
    assert wrong == [("practise", 100, "rounded_loss", DOUBTS["rounded_loss"].likely)]


@pytest.mark.parametrize("method", paper.METHOD_NAMES)
@pytest.mark.parametrize("num", [10, 20, 50])
def test_base_rows_of_table_2_are_the_long_tailed_cells_of_table_1(method, num):
    where = dict(dataset="cifar10", method=method, variant="native_ft", num=num, imbalance="long_tail", quantity="top1")
    assert value(TABLE1, **where) == value(TABLE2, **where)


def test_the_misprint_is_the_only_cell_that_falls_with_more_images():
    falling = []
    for r in TABLE2:
        larger = [o for o in TABLE2 if (o.dataset, o.method, o.variant) == (r.dataset, r.method, r.variant) and o.num > r.num]
        if any(o.value < r.value for o in larger):
            falling.append((r.dataset, r.method, r.variant, r.num, r.value))
    assert falling == [("cifar100", "practise", "ours", 100, 69.57)]
    assert DOUBTS["misprint"].likely == 59.57


def test_the_paper_says_that_ours_is_above_the_base_everywhere():
    for r in (r for r in TABLE2 if r.variant == "ours"):
        assert r.value > paper_value(r.dataset, r.method, "native_ft", r.num)


def test_more_with_fewer_is_contradicted_by_the_table_itself():
    gains = {num: round(paper_value("cifar10", "fskd", "ours", num) - paper_value("cifar10", "fskd", "native_ft", num), 2)
             for num in (10, 20, 50)}
    assert gains[20] > gains[10] > gains[50]
    assert all(f"{gain:.2f}" in DOUBTS["more_with_fewer"].reason for gain in gains.values())


@pytest.mark.parametrize("place, expected", [
    (("cifar10", "cd", "native_ft", 10, "balanced"), 73.89), (("cifar10", "cd", "native_ft", 10), 70.34),
    (("cifar10", "fskd", "native_ft", 100, "balanced"), 89.18), (("cifar10", "mir", "ours", 20), 77.93),
    (("cifar100", "practise", "ours", 100), 69.57), (("imagenet", "practise", "ours", 3000), 72.85),
    (("cifar10", "fskd", "ours", 100), None), (("cifar10", "fskd", "native", 10), None),
    (("cifar100", "fskd", "native_ft", 100, "balanced"), None), (("mnist5k", "fskd", "ours", 10), None)])
def test_paper_value(place, expected):
    assert paper_value(*place) == expected


def test_doubted_cells_name_their_doubt():
    assert {r.doubt for r in PRINTED} - {None} == {"rounded_loss", "misprint", "above_balanced"}
    assert {r.doubt for r in PRINTED} - {None} <= set(DOUBTS)
    assert printed("cifar100", "practise", "ours", 100).doubt == "misprint"


@pytest.mark.parametrize("name", [*DOUBTS, *paper.CLAIMS])
def test_doubts_and_claims_are_sentences(name):
    entry = DOUBTS.get(name) or paper.CLAIMS[name]
    texts = [entry.sentence] + ([entry.reason] if name in DOUBTS else [])
    assert entry.where and all(text[-1] == "." and len(text) > 20 for text in texts)


def test_import_is_light():
    code = "import sys, oefsmc_lib.evidence.paper; print([m for m in ('torch', 'pandas', 'numpy', 'matplotlib') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
