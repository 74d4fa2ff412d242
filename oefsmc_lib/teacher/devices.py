"""The device that computes, and what it is made for."""

import torch

from oefsmc_lib.errors import InputError


def device_named(name: str) -> torch.device:
    """``auto`` is the GPU where there is one, else the CPU; a missing device is refused by :class:`InputError`."""
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"The device {name!r} is not here; use device=cpu or device=auto.") from error
    return device


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions that multiply bfloat16; emulated, it would be slower than float32.

    Of CPUs only x86 is asked, and only where torch can tell (``torch.cpu.get_capabilities``).
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return device.type == "cpu" and any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
