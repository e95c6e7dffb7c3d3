"""Each release of the app is for one minor release of NetBox, and the one before."""

from pathlib import Path

import pytest
import yaml
from core.exceptions import IncompatiblePluginError
from django.conf import settings
from django.urls import reverse

from rq_webhooks import config
from webhooks import __version__

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("release", ["4.6.0", "4.6.8", "4.7.0", "4.7.40"])
def test_every_netbox_of_both_minor_releases_takes_the_plugin(release: str) -> None:
    config.validate({}, release)


@pytest.mark.parametrize(("release", "message"), [("4.5.9", "minimum version 4.6.0"), ("4.8.0", "maximum version 4.7")])
def test_another_netbox_refuses_it_and_says_which_one_it_needs(release: str, message: str) -> None:
    with pytest.raises(IncompatiblePluginError, match=message):
        config.validate({}, release)


def test_the_installed_netbox_has_loaded_it() -> None:
    assert "rq_webhooks" in settings.PLUGINS
    assert reverse("plugins:rq_webhooks:webhook_list") == "/plugins/webhooks/webhooks/"


def test_the_files_for_the_catalogue_name_the_versions_that_netbox_checks() -> None:
    [catalogued] = yaml.safe_load((ROOT / "netbox-plugin.yaml").read_text())["compatibility"]
    assert catalogued == {"release": __version__, "netbox_min": config.min_version, "netbox_max": config.max_version}
    newest = config.max_version.rpartition(".")[0]
    assert f"| {__version__} | {config.min_version} | {newest}.x |" in (ROOT / "COMPATIBILITY.md").read_text()
