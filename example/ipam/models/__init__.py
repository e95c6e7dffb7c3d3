from ipam.models.addresses import VRF, Aggregate, IPAddress, Prefix
from ipam.models.services import Service
from ipam.models.vlans import VLAN, VLANGroup

__all__ = ["VLAN", "VRF", "Aggregate", "IPAddress", "Prefix", "Service", "VLANGroup"]
