"""The conformance kit and the fleet simulator: public API for people who write plugins and test fleets.

Import what you need from its module: the contracts need pytest and hypothesis (``pip install fleetcore[test]``),
the clock, the faults and the simulator do not.
"""
