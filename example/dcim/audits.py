"""The audit of a rack: somebody went there and compared. No model changes: webhooks hear of an event."""

import webhooks

from dcim.models import Rack

RACK_AUDITED = "dcim.rack_audited"


def audit(rack: Rack, note: str = "") -> dict:
    """Send what the rack should hold to whoever wants to know of audits."""
    devices = rack.devices.order_by("position", "name")
    found = {
        "rack": {"id": rack.pk, "name": rack.name, "site": rack.site.slug},
        "devices": [{"name": str(device), "position": device.position} for device in devices],
        "note": note,
    }
    webhooks.send(RACK_AUDITED, rack, found)
    return found
