"""Random views of images: fresh ones, or a bank drawn once so that a teacher sees each only once."""

import torch
import torch.nn.functional as F
from torch import Tensor

BANK_BYTES = 2**30


def augment(images: Tensor, kind: str, source: torch.Generator) -> Tensor:
    """A random view of each image (N, C, H, W), same shape and dtype.

    ``crop``: a crop from a reflected border of 1/8 of the side (4 pixels of 32); ``crop_flip``
    adds a mirror at even odds; ``shift`` moves by up to 2 pixels, onto black; ``resized_crop_flip`` is ImageNet's
    (8-100 % of the area); ``none`` returns the images.
    """
    if kind == "none":
        return images
    count, _, height, width = images.shape
    if kind == "resized_crop_flip":
        views = torch.stack([_resized_crop(image, source) for image in images])
    else:
        border, mode = (2, "constant") if kind == "shift" else (height // 8, "reflect")
        padded = F.pad(images.float(), (border,) * 4, mode=mode).to(images.dtype)
        rows, columns = torch.randint(0, 2 * border + 1, (2, count), generator=source).to(images.device)
        row = rows[:, None] + torch.arange(height, device=images.device)
        column = columns[:, None] + torch.arange(width, device=images.device)
        pick = torch.arange(count, device=images.device)[:, None, None, None]
        channel = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
        views = padded[pick, channel, row[:, None, :, None], column[:, None, None, :]]
    if kind.endswith("flip"):
        mirrored = torch.rand(count, generator=source).to(images.device) < 0.5
        views = torch.where(mirrored[:, None, None, None], views.flip(3), views)
    return views


def _resized_crop(image: Tensor, source: torch.Generator) -> Tensor:
    """Area 8-100 %, aspect 3/4-4/3, resized back; the centre when ten tries do not fit."""
    _, height, width = image.shape
    for _ in range(10):
        area, aspect = torch.rand(2, generator=source).tolist()
        area = height * width * (0.08 + 0.92 * area)
        aspect = (4 / 3) ** (2 * aspect - 1)
        h, w = round((area / aspect) ** 0.5), round((area * aspect) ** 0.5)
        if 0 < h <= height and 0 < w <= width:
            top = int(torch.randint(0, height - h + 1, (1,), generator=source))
            left = int(torch.randint(0, width - w + 1, (1,), generator=source))
            cut = image[None, :, top : top + h, left : left + w].float()
            return F.interpolate(cut, (height, width), mode="bilinear", antialias=True)[0].to(image.dtype)
    return image
