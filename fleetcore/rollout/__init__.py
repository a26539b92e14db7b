"""The engine of firmware campaigns: pure functions of state, event and time, whose effects are data.

:mod:`fleetcore.rollout.executions` moves one device, :mod:`fleetcore.rollout.campaigns` decides for a whole campaign,
from counters alone, and :mod:`fleetcore.rollout.pacing` is the rate of its offers. Nothing here reads a clock, a store
or a device: the fleet runs them under the real clock, a plan under a virtual one.
"""
