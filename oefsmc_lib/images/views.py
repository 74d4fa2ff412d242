"""Random views of images, which training sees instead of the images themselves."""

import torch
import torch.nn.functional as F
from torch import Tensor

BANK_BYTES = 2**30  # the most memory that a bank of views may take


def augment(images: Tensor, kind: str, source: torch.Generator) -> Tensor:
    """A random view of each image (N, C, H, W), of the same shape and type.

    ``crop`` reflects a border of an eighth of the side (4 pixels of 32) around the image and crops; ``crop_flip`` also
    mirrors every second image on average; ``shift`` moves the image by up to 2 pixels onto black;
    ``resized_crop_flip`` is ImageNet's crop of 8 to 100 % of the area, with mirroring; ``none`` returns the images.
    """
    if kind == "none":
        return images
    count, channels, height, width = images.shape
    if kind == "resized_crop_flip":
        views = torch.stack([_resized_crop(image, source) for image in images])
    else:
        border, mode = (2, "constant") if kind == "shift" else (height // 8, "reflect")
        padded, device = F.pad(images.float(), (border,) * 4, mode=mode).to(images.dtype), images.device
        tops, lefts = torch.randint(0, 2 * border + 1, (2, count), generator=source).to(device)  # (N,) each
        rows = tops[:, None] + torch.arange(height, device=device)  # (N, H)
        columns = lefts[:, None] + torch.arange(width, device=device)  # (N, W)
        image = torch.arange(count, device=device)[:, None, None, None]
        channel = torch.arange(channels, device=device)[None, :, None, None]
        views = padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]  # (N, C, H, W)
    if kind.endswith("flip"):
        mirrored = torch.rand(count, generator=source).to(images.device) < 0.5
        views = torch.where(mirrored[:, None, None, None], views.flip(3), views)
    return views


def _resized_crop(image: Tensor, source: torch.Generator) -> Tensor:
    """A crop (C, h, w) of 8-100 % of the area and of aspect 3/4-4/3, resized to (C, H, W).

    The whole image is returned when ten drawn crops did not fit into it.
    """
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
