"""Each release of the app is for one minor release of NetBox."""

import pytest
from core.exceptions import IncompatiblePluginError
from django.conf import settings
from django.urls import reverse

from rq_webhooks import config


@pytest.mark.parametrize("release", ["4.7.0", "4.7.3", "4.7.40"])
def test_every_netbox_of_the_minor_release_takes_the_plugin(release: str) -> None:
    config.validate({}, release)


@pytest.mark.parametrize(("release", "message"), [("4.6.9", "minimum version 4.7.0"), ("4.8.0", "maximum version 4.7")])
def test_another_netbox_refuses_it_and_says_which_one_it_needs(release: str, message: str) -> None:
    with pytest.raises(IncompatiblePluginError, match=message):
        config.validate({}, release)


def test_the_installed_netbox_has_loaded_it() -> None:
    assert "rq_webhooks" in settings.PLUGINS
    assert reverse("plugins:rq_webhooks:webhook_list") == "/plugins/webhooks/webhooks/"
