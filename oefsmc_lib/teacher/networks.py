"""The networks: VGG-16 and ResNet-20/32/56 for 32x32 images, any classifier of torchvision or timm, and a user's own.

Parameter names are those of the teacher files: ``features.<i>`` and ``classifier`` for VGG-16;
``conv1 bn1 layer<L>.<B>.{conv1,bn1,conv2,bn2} fc`` for the residual networks.
"""

import inspect
import os
import re
import sys
from dataclasses import dataclass, replace
from importlib import import_module

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oefsmc_lib.errors import InputError
from oefsmc_lib.parameters.parse import hint

POOL = 0
VGG16 = (64, 64, POOL, 128, 128, POOL, 256, 256, 256, POOL, 512, 512, 512, POOL, 512, 512, 512, POOL)


class VGG(nn.Module):
    """VGG-16 for 32x32 images: thirteen conv-BN-ReLU, five max-pools, one linear head.

    The last map is 1x1 at 32x32; the average over it leaves larger images possible and is
    the identity here. Source: Li et al. 2017 and the FSKD release, with a fifth max-pool.
    """

    def __init__(self, classes: int, channels: int = 3, width: float = 1.0):
        super().__init__()
        layers: list[nn.Module] = []
        for size in VGG16:
            if size == POOL:
                layers.append(nn.MaxPool2d(2))
                continue
            out = max(1, int(size * width))
            layers += [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
            channels = out
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)  # (N, 512, 1, 1)
        return self.classifier(x.mean(dim=(2, 3)))  # (N, K)


class BasicBlock(nn.Module):
    """Two 3x3 convs beside an option-A shortcut: stride 2 and zero channels on both sides."""

    def __init__(self, channels: int, out: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.stride, self.pad = stride, (out - channels) // 2

    def shortcut(self, x: Tensor) -> Tensor:
        if self.stride == 1 and self.pad == 0:
            return x
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


def _stage(channels: int, out: int, blocks: int, stride: int) -> nn.Sequential:
    return nn.Sequential(BasicBlock(channels, out, stride), *(BasicBlock(out, out, 1) for _ in range(blocks - 1)))


class ResNet(nn.Module):
    """ResNet-20/32/56 of He et al. 2016 for 32x32 images, 16-32-64 channels."""

    def __init__(self, depth: int, classes: int, channels: int = 3, width: float = 1.0):
        super().__init__()
        first, second, third = (max(2, 2 * int(8 * 2**stage * width)) for stage in range(3))
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(channels, first, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = _stage(first, first, blocks, stride=1)
        self.layer2 = _stage(first, second, blocks, stride=2)
        self.layer3 = _stage(second, third, blocks, stride=2)
        self.fc = nn.Linear(third, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))  # (N, 64, 8, 8)
        return self.fc(x.mean(dim=(2, 3)))


@dataclass(frozen=True)
class Architecture:
    """What is needed to build an untrained network again, in a new process."""

    # vgg16, resnet20, resnet32, resnet56, a classifier of torchvision, torchvision:NAME, timm:NAME, or module:function
    name: str
    classes: int
    channels: int = 3
    width: float = 1.0
    image_size: int = 32  # the height
    image_width: int | None = None  # None: as the height

    def build(self) -> nn.Module:
        """A freshly initialised network; raises :class:`InputError` for an unknown name."""
        if ":" in self.name:
            return _from_elsewhere(self)
        if self.name == "vgg16":
            return VGG(self.classes, self.channels, self.width)
        if match := re.fullmatch(r"resnet(20|32|56)", self.name):
            return ResNet(int(match[1]), self.classes, self.channels, self.width)
        return _torchvision(self)

    def example(self, images: int = 1) -> Tensor:
        """An all-zero input (N, C, H, W) for tracing."""
        return torch.zeros(images, self.channels, self.image_size, self.image_width or self.image_size)

    def check(self, forward: bool = True) -> None:
        """Refuse a network that is unknown or cannot read these images: a pass of shapes alone, without arithmetic."""
        try:
            with torch.device("meta"):
                model = self.build()
        except NotImplementedError:  # RegNet computes its depth with tensors
            with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
                model = self.build().to("meta")
        try:
            for training in (True, False) if forward else ():
                logits = model.train(training)(self.example(2).to("meta"))
                if tuple(getattr(logits, "shape", ())) != (2, self.classes):
                    raise ValueError("it does not return one number a class for each image")
        except (RuntimeError, AssertionError, ValueError, TypeError) as error:
            said, width = str(error).strip().splitlines()[0].rstrip("."), self.image_width or self.image_size
            raise InputError(
                f"{self.name} cannot read images of {width}x{self.image_size} ({said}); set another image_size (most "
                "networks of torchvision are made for 224) or use another model."
            ) from error


def _torchvision(architecture: Architecture) -> nn.Module:
    from torchvision import models

    name, known = architecture.name, models.list_models(module=models)
    if name not in known:
        ours = ["vgg16", "resnet20", "resnet32", "resnet56"]
        others = "; there are vgg16, resnet20, resnet32, resnet56 and torchvision's classifiers, such as resnet18."
        raise InputError(f"Unknown model {name!r}{hint(name, [*ours, *known], others)}")
    if architecture.channels != 3:
        raise InputError(
            f"{name} reads 3 channels, and images have {architecture.channels}; use model=vgg16 or resnet32."
        )
    options: dict = {"width_mult": architecture.width} if architecture.width != 1 else {}
    if name in ("googlenet", "inception_v3"):  # with auxiliary heads a network in training returns several outputs
        options |= {"aux_logits": False, "init_weights": False}
    try:
        return models.get_model(name, weights=None, num_classes=architecture.classes, **options)
    except TypeError as error:
        raise InputError(f"{name} has no width factor; use width=1.") from error


def fill(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """``load_state_dict`` of a plain dictionary, which lacks the versions that some modules (MNASNet) ask for."""
    state = model.state_dict()
    if missing := sorted(state.keys() ^ tensors.keys()):
        raise RuntimeError(f"the tensor {missing[0]} is in only one of network and file")
    state.update(tensors)
    model.load_state_dict(state)


def _from_elsewhere(architecture: Architecture) -> nn.Module:
    """``torchvision:NAME``, ``timm:NAME``, or what a user's ``module:function`` returns."""
    home, _, name = architecture.name.partition(":")
    if home == "torchvision":
        return _torchvision(replace(architecture, name=name))
    if home == "timm":
        try:
            import timm
        except ImportError as error:
            raise InputError("timm is not installed; install it with `pip install timm`.") from error
        if name not in (known := timm.list_models()):
            raise InputError(f"Unknown model {name!r} of timm{hint(name, known, '; `timm.list_models()` names all.')}")
        return timm.create_model(name, num_classes=architecture.classes, in_chans=architecture.channels)
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # `python -m` looks there, an installed command does not
    try:
        function = getattr(import_module(home), name)
        takes = "num_classes" in inspect.signature(function).parameters
        model = function(num_classes=architecture.classes) if takes else function()
    except Exception as error:  # a user's code may raise anything
        said = f"{type(error).__name__}: {str(error).strip() or 'no message'}".splitlines()[0].rstrip(".")
        raise InputError(f"{architecture.name} could not be called ({said}); mend it or name another one.") from error
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{architecture.name} returned a {type(model).__name__} and no torch.nn.Module; name a function that "
            "returns the network."
        )
    return model


def stem(model: str, width: float) -> str:
    """The first part of a teacher's file name: ``vgg16``, ``vgg16-w0.25``, ``timm-resnet18``."""
    model = model.replace(":", "-")
    return model if width == 1 else f"{model}-w{width:g}"


def feature_module(model: nn.Module) -> str:
    """The module whose output MiR and PRACTISE match: the last map before any final pooling.

    VGG-16: conv13 after BN and ReLU, (N, 512, 2, 2) at 32x32; residual networks: the last block
    after its ReLU; MobileNetV2 and its kin: ``features``. Raises :class:`InputError` elsewhere.
    """
    children = dict(model.named_children())
    if isinstance(features := children.get("features"), nn.Sequential):
        pools = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
        return f"features.{len(features) - 2}" if isinstance(features[-1], pools) else "features"
    for name in ("layer4", "layer3"):
        if name in children:
            return name
    if {"conv_stem", "blocks", "conv_head", "bn2"} <= children.keys():  # timm's MobileNetV2 and EfficientNet
        return "bn2"
    raise InputError(
        f"{type(model).__name__} has neither `features` nor `layer3`/`layer4`, so the map before its "
        "pooling is unknown; MiR and PRACTISE cannot run on it, FSKD and CD can."
    )


def segments(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The network up to :func:`feature_module`, as pieces that run one after the other.

    PRACTISE starts from the input of a piece instead of the image. Raises :class:`InputError`
    when the network is not such a chain.
    """
    last = feature_module(model)
    if last.startswith("features"):
        stack = list(model.get_submodule("features").named_children())
        end = int(last.split(".")[1]) + 1 if "." in last else len(stack)
        return [(f"features.{name}", module) for name, module in stack[:end]]
    pieces: list[tuple[str, nn.Module]] = []
    for name, module in model.named_children():
        blocks = [(f"{name}.{index}", block) for index, block in module.named_children()]
        if name == "blocks":  # stages of blocks
            blocks = [(f"{at}.{index}", block) for at, stage in blocks for index, block in stage.named_children()]
        pieces += blocks if re.fullmatch(r"layer\d|blocks", name) else [(name, module)]
        if name == last:
            break
    if isinstance(model, ResNet):  # its ReLU is a function, not a module
        pieces.insert(2, ("relu", nn.ReLU()))
    return pieces


def run_pieces(pieces: list[tuple[str, nn.Module]], x: Tensor) -> Tensor:
    """Pieces of :func:`segments` in turn; ``x`` may be changed in place."""
    for _, piece in pieces:
        x = piece(x)
    return x
