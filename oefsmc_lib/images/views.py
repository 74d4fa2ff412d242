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
    count, _, height, width = images.shape
    if kind == "resized_crop_flip":
        views = torch.stack([_resized_crop(image, source) for image in images])
    else:
        border, mode = (2, "constant") if kind == "shift" else (height // 8, "reflect")
        padded = F.pad(images.float(), (border,) * 4, mode=mode).to(images.dtype)
        corners = torch.randint(0, 2 * border + 1, (2, count), generator=source).T.tolist()
        crops = [image[:, y : y + height, x : x + width] for image, (y, x) in zip(padded, corners)]
        views = torch.stack(crops)
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
