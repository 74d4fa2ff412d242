"""How PRACTISE's released code, which has MiR too, loads images: one by one through Pillow and torchvision's transforms, in a
DataLoader of four worker processes that start anew for each pass; a pass over 100 images is one batch of 64. The files that it
reads and decodes each time are left out: images are in memory here, and crops are those of 32x32 images."""

import warnings
from contextlib import contextmanager
from unittest import mock

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from oefsmc_lib.compressors import banks

WORKERS = 4


class Pictures(Dataset):
    """8-bit images (N, C, H, W), each as a picture that ``transform`` makes a tensor of."""

    def __init__(self, images, transform):
        self.images, self.transform = images.permute(0, 2, 3, 1).cpu().numpy(), transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, at):
        image = self.images[at]
        return self.transform(Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image))


def transform(kind: str, size: int, mean, std):
    """The views of :func:`oefsmc_lib.images.views.augment` for ``crop`` and ``crop_flip``, by torchvision."""
    view = [transforms.RandomCrop(size, padding=size // 8, padding_mode="reflect")]
    if kind.endswith("flip"):
        view.append(transforms.RandomHorizontalFlip())
    return transforms.Compose([*view, transforms.ToTensor(), transforms.Normalize(mean.flatten().tolist(), std.flatten().tolist())])


class Loaded:
    """Stands in for :class:`banks.Fresh`: the loader draws images and views by itself."""

    def __init__(self, teacher, batch, workers, images, kind, look):
        raw = (images.cpu() * teacher.std.cpu() + teacher.mean.cpu()).mul(255).round().to(torch.uint8)
        pictures = Pictures(raw, transform(kind, images.shape[-1], teacher.mean, teacher.std))
        self.look, self.device = look, images.device
        with warnings.catch_warnings():                   # four is what the release has, on a machine of two cores, too
            warnings.filterwarnings("ignore", "This DataLoader will create")
            self.loader = DataLoader(pictures, batch, shuffle=True, num_workers=workers, drop_last=len(pictures) >= batch)
        self.passing = iter(())

    def pick(self, _index, _source):
        views = next(self.passing, None)
        if views is None:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "This DataLoader will create")
                self.passing = iter(self.loader)
            views = next(self.passing)
        views = views.to(self.device, memory_format=torch.channels_last)
        return views, list(self.look(views))


@contextmanager
def as_released(teacher, batch: int, workers: int = WORKERS):
    """Within it, fresh views come from a DataLoader; its workers end with it."""
    made = []

    def fresh(images, kind, look):
        made.append(Loaded(teacher, batch, workers, images, kind, look))
        return made[-1]
    try:
        with mock.patch.object(banks, "Fresh", fresh):
            yield
    finally:
        for loaded in made:
            loaded.passing = None
