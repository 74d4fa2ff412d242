"""PRACTISE's adaptors: 1x1 convolutions around the gap that a dropped block leaves, at first the identity."""

import re
from typing import Any

from torch import nn

from oefsmc_lib.compressors.surgery import convolution
from oefsmc_lib.teacher.networks import VGG, segments


def places(model: nn.Module, unit: str) -> list[tuple[str, str]]:
    """Where adaptors go when ``unit`` is dropped: [(convolution, "after" or "before")].

    After the last convolution of earlier blocks that write what the unit reads, and after their
    downsample; before the first convolution of later blocks, and their downsample, up to the first that
    writes something else. What blocks write is the same within a stage of a residual network, and for
    equal widths in MobileNetV2. VGG-16 (ours): after earlier convolutions of the resolution, before its
    later ones and the next one's first.
    """
    if isinstance(model, VGG):
        return _vgg_places(model, unit)
    residual, pieces = unit.startswith("layer"), segments(model)
    blocks: list[tuple[str, Any]] = [
        (name, piece)
        for name, piece in pieces
        if (re.fullmatch(r"layer\d\.\d+", name) if residual else hasattr(piece, "use_res_connect"))
    ]
    written = [name.split(".")[0] if residual else block.out_channels for name, block in blocks]
    at = [name for name, _ in blocks].index(unit)
    begin, end = at, at + 1
    while begin > 0 and written[begin - 1] == written[at]:
        begin -= 1
    while end < len(blocks) - 1 and written[end] == written[at]:
        end += 1
    found = []
    for name, block in blocks[begin:at]:
        main, beside = _convolutions(block)
        found += [(f"{name}.{conv}", "after") for conv in (*beside, main[-1])]
    for name, block in blocks[at + 1 : end + 1]:
        main, beside = _convolutions(block)
        found += [(f"{name}.{conv}", "before") for conv in (main[0], *beside)]
    return found


def _vgg_places(model: VGG, unit: str) -> list[tuple[str, str]]:
    at = int(unit.split(".")[1])
    pools = [index for index, module in enumerate(model.features) if isinstance(module, nn.MaxPool2d)]
    begin, end = max((p for p in pools if p < at), default=-1), min(p for p in pools if p > at)
    convolutions = [index for index, module in enumerate(model.features) if isinstance(module, nn.Conv2d)]
    found = [(i, "after") for i in convolutions if begin < i < at]
    found += [(i, "before") for i in convolutions if at < i < end]
    found += [(i, "before") for i in convolutions if i > end][:1]
    return [(f"features.{i}", side) for i, side in found]


def _convolutions(block: nn.Module) -> tuple[list[str], list[str]]:
    """Names of a block's convolutions on its main branch, and on its shortcut."""
    names = [name for name, module in block.named_modules() if isinstance(module, nn.Conv2d)]
    beside = [name for name in names if name.startswith("downsample")]
    return [name for name in names if name not in beside], beside


def insert(model: nn.Module, places: list[tuple[str, str]]) -> list[nn.Conv2d]:
    """Put a bias-free 1x1 convolution, the identity at first, after or before each place, in place."""
    inserted = []
    for name, side in places:
        conv = convolution(model, name)
        channels = conv.out_channels if side == "after" else conv.in_channels
        q = nn.Conv2d(channels, channels, 1, bias=False).to(conv.weight.device)
        nn.init.dirac_(q.weight)
        inserted.append(q)
        parent, _, child = name.rpartition(".")
        both = (conv, q) if side == "after" else (q, conv)
        model.get_submodule(parent).register_module(child, nn.Sequential(*both))
    return inserted
