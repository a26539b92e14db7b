"""The SDK is loaded late, without uamqp, and is all there for others."""

import subprocess
import sys

import pytest


def ran(code):
    return subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)


def test_the_plugin_loads_without_the_sdk():
    done = ran(
        "import sys, fleetcore_azure.plugin\n"
        "print([name for name in sys.modules if name.split('.')[0] in {'azure', 'msrest', 'uamqp', 'requests', 'urllib3'}])"
    )

    assert done.stdout.strip() == "[]", done.stderr


def test_a_machine_without_uamqp_mirrors_all_the_same_and_others_find_the_whole_package():
    done = ran(
        "import sys\nsys.modules['uamqp'] = None\n"
        "from fleetcore_azure import backend, sdk\n"
        "assert 'azure.iot.hub' not in sys.modules\n"
        "del sys.modules['uamqp']\n"
        "print(sdk.models.Twin.__name__, backend.AzureCloud.__name__)"
    )
    whole = ran(
        "import warnings; from fleetcore_azure import sdk\nimport importlib.util as u\nprint(u.find_spec('azure.iot.hub').name)"
    )

    assert done.stdout.split() == ["Twin", "AzureCloud"], done.stderr
    assert whole.stdout.split() == ["azure.iot.hub"], whole.stderr


def test_without_the_sdk_its_absence_is_said_with_what_to_do():
    done = ran(
        "import sys\nsys.modules['azure.iot'] = None\n"
        "from fleetcore.errors import ConfigError\n"
        "try:\n    from fleetcore_azure import sdk\nexcept ConfigError as error:\n    print(error.remedy)"
    )

    assert "--no-deps azure-iot-hub" in done.stdout, done.stderr


def test_without_azure_identity_its_absence_is_said(monkeypatch):
    from fleetcore_azure.tokens import default_credential

    from fleetcore.errors import ConfigError

    monkeypatch.setitem(sys.modules, "azure.identity", None)
    with pytest.raises(ConfigError) as failure:
        default_credential()

    assert "[identity]" in failure.value.remedy
