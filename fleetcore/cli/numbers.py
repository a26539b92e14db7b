"""Numbers on the command line."""

import math
from typing import Any

import click


class Number(click.FloatRange):
    """A range of numbers without nan and infinity, which every comparison would accept."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """As in click; fails for a number that is not finite."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number
