"""Completing a data folder of which a part has no fleet id, or is permanently lost."""

from pathlib import Path

from attrs import evolve

from fleetcore.errors import ConfigError
from fleetcore.fleet.security.folder import fleet_name
from fleetcore.runtime.app import Fleet
from fleetcore.runtime.config import Config, load
from fleetcore.runtime.identity import Adoption, Parts, look


async def adopt(data: Path, adoption: Adoption, *, name: str | None = None) -> tuple[Parts, str]:
    """Writes the fleet's id into the parts without one, and creates the lost parts that ``adoption`` lists.

    Args:
        name: the fleet's name, if fleet.toml is lost; by default the one in its certificates.

    Returns the parts found before, and the fleet's id.

    Raises:
        ConfigError: the folder does not exist; the parts are of different fleets; a part is missing that ``adoption``
            does not list.
        DataFolderInUse: a server has it open.
    """
    config = _configuration(data, name)
    before = look(config)
    fleet = await Fleet.open(config, create=False, adoption=adoption)
    await fleet.close()
    return before, fleet.id


def _configuration(data: Path, name: str | None) -> Config:
    if not data.is_dir():
        raise ConfigError(f"Data folder {data} does not exist", remedy="Name the folder of a fleet with --data")
    toml = data / "fleet.toml"
    if toml.is_file():
        config = load(toml)
        return config if config.data is not None else evolve(config, fleet=evolve(config.fleet, data="."))
    config = Config()
    known = name or fleet_name(data / "pki") or config.fleet.name
    return evolve(config, fleet=evolve(config.fleet, name=known, data=str(data)))
