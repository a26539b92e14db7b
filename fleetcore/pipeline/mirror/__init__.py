"""Mirrors: keep cloud hubs in step with the fleet. See :mod:`fleetcore.pipeline.mirror.engine`."""
