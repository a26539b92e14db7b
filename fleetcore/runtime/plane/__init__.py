"""The device plane, in the parts that protocols see through :class:`~fleetcore.interfaces.protocol.DevicePlane`."""
