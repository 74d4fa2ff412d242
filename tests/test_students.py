"""The same students, bit for bit, as before: what a change that promises to alter no number is held to.

``students.json`` has the hashes by version of torch and kind of processor; on others the test is skipped, for rounding
differs. ``OEFSMC_TEST_RECORD=1 python -m pytest tests/test_students.py`` records them on this machine: do it before a
change, and commit a new record only with a new ``ALGORITHM_VERSION``.
"""

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from conftest import DRAW, experiment

from oefsmc_lib import pipeline
from oefsmc_lib.parameters.experiment import ALGORITHM_VERSION, METHODS

RECORD = Path(__file__).with_name("students.json")
HERE = f"algorithm {ALGORITHM_VERSION}, torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, " \
       f"bfloat16 {torch.cpu.get_capabilities().get('avx512_bf16', False) if hasattr(torch.cpu, 'get_capabilities') else '?'}"
NETWORKS = {"vgg": {}, "resnet": {"model": "resnet20", "width": 0.5, "imbalance": "step", "ratio": 4}}
VARIANTS = ("native", "native_ft", "extra_images", "wo_comp", "ours", "whole_pool")
CASES = {f"{method} {network} {variant}": {"method": method, "variant": variant, **settings}
         for method in METHODS for network, settings in NETWORKS.items() for variant in VARIANTS}
CASES |= {
    "fskd literal": {"method": "fskd", "fskd.solver": "minnorm"},
    "fskd evidence": {"method": "fskd", "contribution": "evidence"},
    "fskd redrawn": {"method": "fskd", "redraw": True, "finetune.bn": "separate"},
    "fskd rebalanced": {"method": "fskd", "variant": "native_ft", "finetune.rebalance": "logit_adjustment", "finetune.stop": "fixed"},
    "cd literal": {"method": "cd", "cd.solver": "adam", "cd.bn": "train"},
    "cd activation": {"method": "cd", "contribution": "activation"},
    "mir literal": {"method": "mir", "mir.views": 0, "kd": "kl"},
    "mir taylor": {"method": "mir", "contribution": "taylor", "w": "inverse"},
    "practise literal": {"method": "practise", "practise.start": "teacher", "practise.cache": False},
    "practise augmented": {"method": "practise", "practise.start": "teacher", "aux": "augmented_few", "kd": "kl"},
    "practise of the teacher": {"method": "practise", "practise.start": "teacher", "plan": "drop3"},
}


def digest(student) -> str:
    """A hash of every weight and of the structure."""
    found = hashlib.sha256(repr((student.structure.kept, student.structure.dropped)).encode())
    for name, tensor in student.model.state_dict().items():
        found.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def test_students_are_those_of_before(tiny):
    if DRAW or torch.get_num_threads() > 1:
        pytest.skip("the hashes are of the usual draw, on one thread")
    known = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
    shared = pipeline.Shared()
    found = {}
    for name, settings in CASES.items():
        e = experiment(**settings)
        found[name] = f"{e.key} {digest(pipeline.run(e, shared)[0])}"
    if os.environ.get("OEFSMC_TEST_RECORD"):
        RECORD.write_text(json.dumps(known | {HERE: found}, indent=1, sort_keys=True) + "\n")
    elif HERE not in known:
        pytest.skip(f"no hashes are recorded for {HERE}")
    else:
        assert found == known[HERE]
