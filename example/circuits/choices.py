from django.db.models import TextChoices


class CircuitStatus(TextChoices):
    PLANNED = "planned", "Planned"
    PROVISIONING = "provisioning", "Provisioning"
    ACTIVE = "active", "Active"
    OFFLINE = "offline", "Offline"
    DEPROVISIONING = "deprovisioning", "Deprovisioning"
    DECOMMISSIONED = "decommissioned", "Decommissioned"


class CircuitType(TextChoices):
    DARK_FIBER = "dark-fiber", "Dark Fiber"
    INTERNET = "internet", "Internet Access"
    MPLS = "mpls", "MPLS"
    TRANSIT = "transit", "Transit"


class DistanceUnit(TextChoices):
    KILOMETER = "km", "Kilometers"
    METER = "m", "Meters"
    MILE = "mi", "Miles"
