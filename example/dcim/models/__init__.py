from dcim.models.cables import Cable
from dcim.models.devices import Device, Interface
from dcim.models.sites import Rack, RackGroup, Site

__all__ = ["Cable", "Device", "Interface", "Rack", "RackGroup", "Site"]
