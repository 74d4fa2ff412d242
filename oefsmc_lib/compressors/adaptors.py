"""PRACTISE's adaptors: 1x1 convolutions around the gap that a dropped block leaves, at first the identity."""

import re
from typing import Any

from torch import nn

from oefsmc_lib.compressors.surgery import convolution
from oefsmc_lib.teacher.networks import VGG, segments


def places(model: nn.Module, unit: str) -> list[tuple[str, str]]:
    """Where adaptors go when ``unit`` is dropped: [(convolution, "after" or "before")].

    Residual networks: after the last convolution of earlier blocks of the stage and after its
    downsample; before conv1 of later blocks of the stage, and before conv1 and the downsample of
    the next stage's first. MobileNetV2: after the projections of earlier blocks of the width,
    before the expansions of later ones, up to the first block of another width. VGG-16 (ours):
    after earlier convolutions of the resolution, before its later ones and the next one's first.
    """
    if isinstance(model, VGG):
        return _vgg_places(model, unit)
    if match := re.fullmatch(r"(layer)(\d)\.(\d+)", unit):
        return _residual_places(model, int(match[2]), int(match[3]))
    return _inverted_places(model, unit)


def _vgg_places(model: VGG, unit: str) -> list[tuple[str, str]]:
    at = int(unit.split(".")[1])
    pools = [index for index, module in enumerate(model.features) if isinstance(module, nn.MaxPool2d)]
    begin, end = max((p for p in pools if p < at), default=-1), min(p for p in pools if p > at)
    convolutions = [index for index, module in enumerate(model.features) if isinstance(module, nn.Conv2d)]
    found = [(i, "after") for i in convolutions if begin < i < at]
    found += [(i, "before") for i in convolutions if at < i < end]
    found += [(i, "before") for i in convolutions if i > end][:1]
    return [(f"features.{i}", side) for i, side in found]


def _residual_places(model: nn.Module, stage: int, dropped: int) -> list[tuple[str, str]]:
    layer, following = getattr(model, f"layer{stage}"), getattr(model, f"layer{stage + 1}", None)
    found = []
    if getattr(layer[0], "downsample", None) is not None:
        found.append((f"layer{stage}.0.downsample.0", "after"))
    last = "conv3" if hasattr(layer[0], "conv3") else "conv2"
    found += [(f"layer{stage}.{i}.{last}", "after") for i in range(dropped)]
    found += [(f"layer{stage}.{i}.conv1", "before") for i in range(dropped + 1, len(layer))]
    if following is not None:
        found.append((f"layer{stage + 1}.0.conv1", "before"))
        if getattr(following[0], "downsample", None) is not None:
            found.append((f"layer{stage + 1}.0.downsample.0", "before"))
    return found


def _inverted_places(model: nn.Module, unit: str) -> list[tuple[str, str]]:
    blocks = [(name, piece) for name, piece in segments(model) if hasattr(piece, "use_res_connect")]
    names = [name for name, _ in blocks]
    at = names.index(unit)
    width: Any = blocks[at][1].out_channels
    found: list[tuple[str, str]] = []
    for name, block in reversed(blocks[:at]):
        if block.out_channels != width:
            break
        found.insert(0, (f"{name}.{_convs(block)[-1]}", "after"))
    for name, block in blocks[at + 1 :]:
        found.append((f"{name}.{_convs(block)[0]}", "before"))
        if block.out_channels != width:
            break
    return found


def _convs(block: nn.Module) -> list[str]:
    return [name for name, module in block.named_modules() if isinstance(module, nn.Conv2d)]


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
        model.get_submodule(parent).register_module(
            child, nn.Sequential(*((conv, q) if side == "after" else (q, conv)))
        )
    return inserted
