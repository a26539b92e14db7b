"""The operators' HTTP API: ``/api/v1`` as a fleetcore service.

The middleware authenticates, limits the body and recognises repeated requests. Handlers check a right on each object
and call the fleet's capabilities. The OpenAPI document is made from models. This package contains no rules of the
fleet.
"""

__version__ = "0.1.0"
