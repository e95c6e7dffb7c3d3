from django.db.models import IntegerChoices, TextChoices


class IPFamily(IntegerChoices):
    IPV4 = 4, "IPv4"
    IPV6 = 6, "IPv6"


class RIR(TextChoices):
    AFRINIC = "afrinic", "AFRINIC"
    APNIC = "apnic", "APNIC"
    ARIN = "arin", "ARIN"
    LACNIC = "lacnic", "LACNIC"
    RIPE = "ripe", "RIPE NCC"
    RFC1918 = "rfc1918", "RFC 1918"
    RFC4193 = "rfc4193", "RFC 4193"


class PrefixStatus(TextChoices):
    CONTAINER = "container", "Container"
    ACTIVE = "active", "Active"
    RESERVED = "reserved", "Reserved"
    DEPRECATED = "deprecated", "Deprecated"


class NetworkRole(TextChoices):
    """The role of a prefix or a VLAN."""

    LOOPBACKS = "loopbacks", "Loopbacks"
    MANAGEMENT = "management", "Management"
    SERVERS = "servers", "Servers"
    TRANSIT = "transit", "Transit"
    USERS = "users", "Users"


class IPAddressStatus(TextChoices):
    ACTIVE = "active", "Active"
    RESERVED = "reserved", "Reserved"
    DEPRECATED = "deprecated", "Deprecated"
    DHCP = "dhcp", "DHCP"
    SLAAC = "slaac", "SLAAC"


class IPAddressRole(TextChoices):
    LOOPBACK = "loopback", "Loopback"
    SECONDARY = "secondary", "Secondary"
    ANYCAST = "anycast", "Anycast"
    VIP = "vip", "VIP"
    VRRP = "vrrp", "VRRP"


class VLANStatus(TextChoices):
    ACTIVE = "active", "Active"
    RESERVED = "reserved", "Reserved"
    DEPRECATED = "deprecated", "Deprecated"


class ServiceProtocol(TextChoices):
    TCP = "tcp", "TCP"
    UDP = "udp", "UDP"
    SCTP = "sctp", "SCTP"
