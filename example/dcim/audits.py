"""The audit of a rack: an example of an event that is sent by code. No model changes."""

import webhooks

from dcim.models import Rack

RACK_AUDITED = "dcim.rack_audited"


def audit(rack: Rack, note: str = "") -> dict:
    """Send the expected content of the rack to the webhooks for audits."""
    devices = rack.devices.order_by("position", "name")
    data = {
        "rack": {"id": rack.pk, "name": rack.name, "site": rack.site.slug},
        "devices": [{"name": str(device), "position": device.position} for device in devices],
        "note": note,
    }
    webhooks.send(RACK_AUDITED, rack, data)
    return data
