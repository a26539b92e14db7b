"""A device that knows EST alone gets in at AWS with the certificates that this fleet gave it, and out with them."""

import pytest
from fleetcore_aws.testing.front import HubBack
from fleetcore_aws.testing.front import serving as serving_aws
from fleetcore_aws.testing.hub import Hub

from fleetcore.testing.patience import until

from .conftest import Shell

pytestmark = [pytest.mark.peer("curl", "openssl")]

AWS = """
[clouds.aws]
region = "us-east-1"
endpoint = "{endpoint}"
threads = 4
write_every_s = 0
mirror = ["registry", "certificates"]
certificate_policy = "devices"
"""


async def test_a_device_enrols_renews_and_is_revoked(serving, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    hub = Hub()
    hub.policies.add("devices")

    def opening():
        return [each for each in hub.certificates.values() if each.status == "ACTIVE" and each.things == {"meter-1"}]

    async with serving_aws(HubBack(hub)) as front, serving(AWS.format(endpoint=front.endpoint)) as served:
        shell = Shell(served, tmp_path)
        token = await served.security.enrollment_tokens.create()
        assert await shell.enroll("simpleenroll", await shell.key("meter-1"), "-u", f"x:{token}") == 200
        await until(lambda: len(opening()) == 1)
        new = await shell.key("meter-1", "new.pem")
        assert await shell.enroll("simplereenroll", new, *shell.identity, into="new-cert.pem") == 200
        await until(lambda: len(opening()) == 2)
        given = {record.pem for record in await served.security.inventory("meter-1")}
        at_aws = [(each.pem, each.policies) for each in hub.certificates.values()]

        await served.manager.revoke_device("meter-1", reason="stolen")
        await until(lambda: not opening())

    assert sorted(at_aws) == [(pem, {"devices"}) for pem in sorted(given)]
    assert {each.status for each in hub.certificates.values()} == {"INACTIVE"}
