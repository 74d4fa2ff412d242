"""A user's module: what ``--model nets:function`` calls in the tests."""

from torch import nn


def tiny(num_classes):
    """A network that the tests can compress in a second."""
    layers = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes))


def raising(num_classes):
    raise RuntimeError("no weather today")


def nothing():
    return "network"


class Crooked(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv, self.late, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(9, 8, 3), nn.Linear(8, classes)

    def forward(self, x):
        return self.head(self.late(self.conv(x)).mean((2, 3)))


def crooked(num_classes):
    return Crooked(num_classes)
