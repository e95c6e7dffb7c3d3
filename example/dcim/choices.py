from django.db.models import IntegerChoices, TextChoices


class SiteStatus(TextChoices):
    PLANNED = "planned", "Planned"
    STAGING = "staging", "Staging"
    ACTIVE = "active", "Active"
    DECOMMISSIONING = "decommissioning", "Decommissioning"
    RETIRED = "retired", "Retired"


class RackStatus(TextChoices):
    RESERVED = "reserved", "Reserved"
    AVAILABLE = "available", "Available"
    PLANNED = "planned", "Planned"
    ACTIVE = "active", "Active"
    DEPRECATED = "deprecated", "Deprecated"


class RackRole(TextChoices):
    COMPUTE = "compute", "Compute"
    NETWORK = "network", "Network"
    STORAGE = "storage", "Storage"


class RackFormFactor(TextChoices):
    TWO_POST_FRAME = "2-post-frame", "2-post frame"
    FOUR_POST_FRAME = "4-post-frame", "4-post frame"
    FOUR_POST_CABINET = "4-post-cabinet", "4-post cabinet"
    WALL_CABINET = "wall-cabinet", "Wall-mounted cabinet"


class RackWidth(IntegerChoices):
    TEN_INCHES = 10, "10 inches"
    NINETEEN_INCHES = 19, "19 inches"
    TWENTY_ONE_INCHES = 21, "21 inches"
    TWENTY_THREE_INCHES = 23, "23 inches"


class WeightUnit(TextChoices):
    KILOGRAM = "kg", "Kilograms"
    GRAM = "g", "Grams"
    POUND = "lb", "Pounds"
    OUNCE = "oz", "Ounces"


class DeviceStatus(TextChoices):
    OFFLINE = "offline", "Offline"
    ACTIVE = "active", "Active"
    PLANNED = "planned", "Planned"
    STAGED = "staged", "Staged"
    FAILED = "failed", "Failed"
    INVENTORY = "inventory", "Inventory"
    DECOMMISSIONING = "decommissioning", "Decommissioning"


class DeviceRole(TextChoices):
    ACCESS_SWITCH = "access-switch", "Access Switch"
    CORE_SWITCH = "core-switch", "Core Switch"
    FIREWALL = "firewall", "Firewall"
    ROUTER = "router", "Router"
    SERVER = "server", "Server"


class DeviceFace(TextChoices):
    FRONT = "front", "Front"
    REAR = "rear", "Rear"


class DeviceAirflow(TextChoices):
    FRONT_TO_REAR = "front-to-rear", "Front to rear"
    REAR_TO_FRONT = "rear-to-front", "Rear to front"
    PASSIVE = "passive", "Passive"


class InterfaceType(TextChoices):
    VIRTUAL = "virtual", "Virtual"
    BRIDGE = "bridge", "Bridge"
    LAG = "lag", "Link Aggregation Group (LAG)"
    ETHERNET_1GE = "1000base-t", "1000BASE-T (1GE)"
    ETHERNET_10GE = "10gbase-t", "10GBASE-T (10GE)"
    SFP_PLUS = "10gbase-x-sfpp", "SFP+ (10GE)"
    SFP28 = "25gbase-x-sfp28", "SFP28 (25GE)"
    QSFP28 = "100gbase-x-qsfp28", "QSFP28 (100GE)"


class InterfaceMode(TextChoices):
    ACCESS = "access", "Access"
    TAGGED = "tagged", "Tagged"
    TAGGED_ALL = "tagged-all", "Tagged (All)"


class CableType(TextChoices):
    CAT6 = "cat6", "CAT6"
    CAT6A = "cat6a", "CAT6a"
    DAC_PASSIVE = "dac-passive", "Direct Attach Copper (Passive)"
    MMF_OM4 = "mmf-om4", "Multimode Fiber (OM4)"
    SMF_OS2 = "smf-os2", "Single-mode Fiber (OS2)"


class CableStatus(TextChoices):
    CONNECTED = "connected", "Connected"
    PLANNED = "planned", "Planned"
    DECOMMISSIONING = "decommissioning", "Decommissioning"


class CableEnd(TextChoices):
    A = "A", "A"
    B = "B", "B"


class InterfaceDuplex(TextChoices):
    HALF = "half", "Half"
    FULL = "full", "Full"
    AUTO = "auto", "Auto"
