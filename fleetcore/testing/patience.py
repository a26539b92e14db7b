"""How long a test waits for what is to happen, before it says that it hangs.

No verdict by the clock: what a busy machine makes slow is no failure. A bound is there so that a hang ends with a
message; it is far beyond what anything takes on a machine that does ten other things.
"""

#: Seconds. Below the limit of a whole test, ``timeout`` in pyproject.toml, so that the message names what hangs.
PATIENCE_S = 240.0
