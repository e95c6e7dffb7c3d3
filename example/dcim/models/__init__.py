from dcim.models.devices import Device, Interface
from dcim.models.sites import Rack, RackGroup, Site

__all__ = ["Device", "Interface", "Rack", "RackGroup", "Site"]
