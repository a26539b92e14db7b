"""The library in a script: a fleet in memory, without a server and without a network."""

import asyncio

from fleetcore import IoTFleetManager


async def main() -> None:
    """Registers two devices, takes a reading of one, starts an update, and asks how the fleet is."""
    manager = IoTFleetManager()  # in memory; IoTFleetManager("./fleet-data") keeps it
    device = await manager.register_device(
        "sensor-001",
        "temperature-sensor",
        {
            "location": {"lat": 37.7749, "lon": -122.4194},
            "capabilities": ["temperature", "humidity"],
            "tags": ["outdoor", "production"],
        },
    )
    await manager.register_device("sensor-002", "temperature-sensor", {"tags": ["indoor"]})
    await manager.provision_device(device, {"reporting_interval": 300, "temperature_unit": "celsius"})
    await manager.collect_telemetry(device, "temperature", 25.5, "celsius")
    # Nothing is fetched in memory: the campaign waits as a draft for an artifact with a digest.
    await manager.update_firmware("fw-update-001", "2.0.0", [device], "https://updates.example.com/v2.0.0")

    for reading in await manager.list_device_latest_readings(device):
        print(f"{device}: {reading.metric} is {reading.value} {reading.unit}")
    health = await manager.get_fleet_health()
    print(f"Fleet health score: {health['health_score']}%")


asyncio.run(main())
