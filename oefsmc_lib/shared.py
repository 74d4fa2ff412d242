"""What runs of one process share, so that it is computed once."""

import time
from collections import OrderedDict, defaultdict
from typing import ClassVar


class Shared:
    """What runs of one process have in common, computed once: data, teachers, pools, recovered and finished students.

    Variants that recover the same student (``native`` and ``native_ft``; ``extra_images``, ``wo_ft`` and ``ours`` where
    eq. 5 changes nothing) fine-tune copies of one, and those that also fine-tune alike are one finished student, which
    is tested once. Only the few latest of each kind are kept.
    """

    LIMITS: ClassVar[dict[str, int]] = {"teacher": 2, "pool": 8, "cost": 8}  # four of every other kind

    def __init__(self) -> None:
        self.kept: dict[str, OrderedDict] = defaultdict(OrderedDict)
        self.saved = 0.0  # seconds that what is being made took from here instead of computing it

    def get(self, kind: str, key, make):
        """What ``make()`` returns, made once for each key."""
        return self.timed(kind, key, make)[0]

    def part(self, key, name, make):
        """A part of what runs of one ``key`` recover."""
        return self.get("part", (key, name), make)

    def timed(self, kind: str, key, make):
        """The same, and the seconds that it takes to make; parts that were found here count with theirs."""
        store = self.kept[kind]
        if key in store:
            self.saved += store[key][1]
        else:
            before, self.saved = self.saved, 0.0
            begin = time.perf_counter()
            made = make()
            store[key] = made, time.perf_counter() - begin + self.saved
            self.saved += before
            while len(store) > self.LIMITS.get(kind, 4):
                store.popitem(last=False)
        store.move_to_end(key)
        return store[key]
