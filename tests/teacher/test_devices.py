"""Which device computes, and which ones run bfloat16."""

import pytest
import torch

from oefsmc_lib.errors import InputError
from oefsmc_lib.teacher.devices import device_named, multiplies_bfloat16


@pytest.mark.parametrize("capabilities, expected", [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({}, False),
                                                    ({"avx512_bf16": False, "bf16": True}, False), (None, False)])
def test_which_processors_run_bfloat16(capabilities, expected, monkeypatch):
    if capabilities is None:                               # torch before 2.12
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert multiplies_bfloat16(torch.device("cpu")) is expected
    assert multiplies_bfloat16(torch.device("mps")) is False


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_is_asked_without_emulation(native, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native or including_emulation)
    assert multiplies_bfloat16(torch.device("cuda")) is native


def test_auto_is_the_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_named("auto") == device_named("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "empty", lambda *_, device: None)
    assert device_named("auto") == torch.device("cuda")


@pytest.mark.parametrize("name", ["cuda:99", "gpu", ""])
def test_a_device_that_is_not_here_is_refused(name):
    with pytest.raises(InputError, match="is not here; use device=cpu or device=auto"):
        device_named(name)
