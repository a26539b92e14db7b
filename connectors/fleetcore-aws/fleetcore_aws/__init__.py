"""AWS IoT Core as a mirror of a fleet: things, named shadows, thing groups, jobs, and readings as messages.

The engine decides what is sent and handles the answers; this package translates between the model's bodies and the
calls of boto3. Each facet has a module; every call of the SDK goes through :mod:`fleetcore_aws.clients`.
:mod:`fleetcore_aws.testing` simulates AWS.
"""

__version__ = "0.1.0"
