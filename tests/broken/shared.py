"""What broken components share: a random source and a count that are the whole process's."""

from __future__ import annotations

import dataclasses
import itertools
import random

SHARED_RANDOM = random.Random(0)
SHARED_COUNT = itertools.count()


def altered(forecast, **arrays):
    return dataclasses.replace(forecast, **arrays)
