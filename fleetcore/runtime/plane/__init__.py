"""The device plane: the services that protocols use through :class:`~fleetcore.interfaces.protocol.DevicePlane`."""
