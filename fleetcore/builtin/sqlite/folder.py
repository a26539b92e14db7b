"""The data folder of the store: the names of its parts and the rights of its files."""

#: Only the owner may read it: the store holds identities and token hashes.
FILE_MODE = 0o600

DATABASE = "fleet.db"
ARTIFACTS = "artifacts"
