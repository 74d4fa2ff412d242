"""The same students, bit for bit, as before: what a change that promises to alter no number is held to.

``students.json`` has the hashes by version of torch and by how this machine rounds, which processors of one instruction
set do not do alike; on others the test is skipped. ``OEFSMC_TEST_RECORD=1 python -m pytest tests/test_students.py`` records
them on this machine: do it before a change, and commit a record that replaces another only with a new ``ALGORITHM_VERSION``.
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


def rounding() -> str:
    """A hash of what the stages are made of, on fixed numbers: convolutions and their gradients, norms, products, solving."""
    found, numbers = hashlib.sha256(), lambda *shape: torch.sin(torch.arange(float(torch.Size(shape).numel()))).view(shape)
    for channels, wide, side, images in ((3, 4, 32, 5), (4, 8, 16, 20), (16, 16, 8, 7), (32, 24, 4, 40), (64, 64, 2, 3)):
        x, weight = numbers(images, channels, side, side).to(memory_format=torch.channels_last), numbers(wide, channels, 3, 3)
        for leaf in (x, weight):
            leaf.requires_grad_()
        maps = torch.nn.functional.conv2d(x, weight, padding=1)
        normed = torch.nn.functional.batch_norm(maps, None, None, training=True).relu()
        loss = normed.mean((2, 3)).log_softmax(1).square().mean()
        rows = maps.detach().permute(0, 2, 3, 1).flatten(0, 2).double()
        gram = rows.T @ rows + torch.eye(wide)
        parts = [maps, normed, loss, *torch.autograd.grad(loss, (x, weight)), gram, torch.linalg.solve(gram, gram.sin())]
        with torch.autocast("cpu", torch.bfloat16):
            parts += [torch.nn.functional.conv2d(x, weight, padding=1).float(), numbers(images, 48) @ numbers(48, wide)]
        for part in parts:
            found.update(part.detach().contiguous().float().numpy().tobytes())
    return found.hexdigest()[:12]


HERE = f"algorithm {ALGORITHM_VERSION}, torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, rounding {{}}"
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
    known, here = json.loads(RECORD.read_text()) if RECORD.is_file() else {}, HERE.format(rounding())
    if here not in known and not os.environ.get("OEFSMC_TEST_RECORD"):
        pytest.skip(f"no hashes are recorded for {here}")
    shared = pipeline.Shared()
    found = {}
    for name, settings in CASES.items():
        e = experiment(**settings)
        found[name] = f"{e.key} {digest(pipeline.run(e, shared)[0])}"
    if os.environ.get("OEFSMC_TEST_RECORD"):
        RECORD.write_text(json.dumps(known | {here: found}, indent=1, sort_keys=True) + "\n")
    else:
        assert found == known[here]
