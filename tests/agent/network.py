"""A core, a gateway and the site's leaves in network namespaces of their own, with links that can be cut.

The leaves are here, in the namespace of the tests. A cut link is down: packets are lost, and no end is told.
"""

import itertools
import os
import subprocess

import pytest

_NUMBERS = itertools.count()


class Network:
    """``site`` ↔ gateway ↔ core.

    Attributes:
        gateway, core: the names of their namespaces.
        gateway_address: of the gateway, for leaves; ``core_address``: of the core, for the gateway.
    """

    def __init__(self):
        number = (os.getpid() * 7 + next(_NUMBERS)) % 250
        self.gateway, self.core, self._leaves = f"fcg{number}", f"fcc{number}", f"fcl{number}"
        self.gateway_address, self.core_address = f"10.213.{number}.2", f"10.214.{number}.1"
        self._site = [
            f"netns add {self.gateway}", f"netns add {self.core}",
            f"link add {self._leaves} type veth peer name leaves netns {self.gateway}",
            f"addr add 10.213.{number}.1/24 dev {self._leaves}", f"link set {self._leaves} up",
            f"-n {self.gateway} link add uplink type veth peer name eth0 netns {self.core}",
            f"-n {self.gateway} addr add {self.gateway_address}/24 dev leaves",
            f"-n {self.gateway} addr add 10.214.{number}.2/24 dev uplink",
            f"-n {self.core} addr add {self.core_address}/24 dev eth0",
            *(f"-n {self.gateway} link set {name} up" for name in ("lo", "leaves", "uplink")),
            *(f"-n {self.core} link set {name} up" for name in ("lo", "eth0")),
        ]  # fmt: skip

    def __enter__(self):
        try:
            for words in self._site:
                _ip(words)
        except subprocess.CalledProcessError as error:
            self.__exit__(None, None, None)
            pytest.skip(f"this machine gives no network namespaces: {error.stderr.strip()}")
        return self

    def __exit__(self, *error):
        for name in (self.gateway, self.core):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    def cut(self):
        """The link between gateway and core is down."""
        _ip(f"-n {self.gateway} link set uplink down")

    def mend(self):
        _ip(f"-n {self.gateway} link set uplink up")

    def words(self, namespace, *words):
        """A command in a namespace."""
        return ["ip", "netns", "exec", namespace, *words]


def _ip(words):
    subprocess.run(["ip", *words.split()], check=True, capture_output=True, text=True)
