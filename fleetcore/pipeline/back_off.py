"""Back-off: how long a failed plugin component waits before it is opened again."""

_WAITS_S = (1.0, 2.0, 5.0, 15.0, 60.0)


def back_off_s(failures: int) -> float:
    """The wait after a failure that ``failures`` others preceded in a row, s."""
    return _WAITS_S[min(failures, len(_WAITS_S) - 1)]
