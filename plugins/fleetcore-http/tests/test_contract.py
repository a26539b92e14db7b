"""HTTP with mutual TLS, and with device tokens, keeps the promises of a protocol."""

import pytest


@pytest.fixture
def tls(served):
    """The TLS provider that the other tests' server has."""
    return served.adapter._site.context.tls
