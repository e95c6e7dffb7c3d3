from django.db.models import TextChoices


class ClusterType(TextChoices):
    KVM = "kvm", "KVM"
    KUBERNETES = "kubernetes", "Kubernetes"
    PROXMOX = "proxmox", "Proxmox VE"
    VSPHERE = "vsphere", "VMware vSphere"


class ClusterStatus(TextChoices):
    PLANNED = "planned", "Planned"
    STAGING = "staging", "Staging"
    ACTIVE = "active", "Active"
    DECOMMISSIONING = "decommissioning", "Decommissioning"
    OFFLINE = "offline", "Offline"


class VirtualMachineStatus(TextChoices):
    OFFLINE = "offline", "Offline"
    ACTIVE = "active", "Active"
    PLANNED = "planned", "Planned"
    STAGED = "staged", "Staged"
    FAILED = "failed", "Failed"
    DECOMMISSIONING = "decommissioning", "Decommissioning"
    PAUSED = "paused", "Paused"


class VirtualMachineRole(TextChoices):
    APPLICATION = "application", "Application"
    DATABASE = "database", "Database"
    MONITORING = "monitoring", "Monitoring"
    WEB = "web", "Web"


class StartOnBoot(TextChoices):
    ON = "on", "On"
    OFF = "off", "Off"
    LAST_STATE = "laststate", "Last state"
