"""Numbers on the command line."""

import math
from typing import Any

import click


class Number(click.FloatRange):
    """A range of numbers that leaves out nan and infinity, which every comparison would let through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """As click does; fails for what is not finite."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number
