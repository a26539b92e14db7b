"""The operators' HTTP API: ``/api/v1`` as a fleetcore service.

A gate in front (who is it, may the body be read, was it sent before), handlers that ask for a right on each object and
call the fleet's capabilities, and models from which the OpenAPI document is made. No rule of the fleet lives here.
"""

__version__ = "0.1.0"
