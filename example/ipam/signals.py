"""Receivers of the signals of models. ``IPAMConfig.ready`` imports this module."""

from typing import Any

from django.db.models import F
from django.db.models.signals import post_delete, post_save, pre_delete
from django.dispatch import receiver

from dcim.models import Device, Site
from ipam.models import VLAN, IPAddress, VLANGroup
from virtualization.models import VirtualMachine


@receiver(post_save, sender=VLANGroup)
def count_new_vlan_group(instance: VLANGroup, created: bool, raw: bool, **kwargs: Any) -> None:
    """Keep the number of VLAN groups at their site."""
    if created and not raw:
        Site.objects.filter(pk=instance.site_id).update(vlangroup_count=F("vlangroup_count") + 1)


@receiver(post_delete, sender=VLANGroup)
def count_deleted_vlan_group(instance: VLANGroup, **kwargs: Any) -> None:
    Site.objects.filter(pk=instance.site_id).update(vlangroup_count=F("vlangroup_count") - 1)


@receiver(pre_delete, sender=VLAN)
def untag_interfaces(instance: VLAN, **kwargs: Any) -> None:
    """Django removes the rows of the relation without a signal. This sends one."""
    instance.interfaces_as_tagged.clear()


@receiver(pre_delete, sender=IPAddress)
def clear_primary_ip(instance: IPAddress, **kwargs: Any) -> None:
    """Save the machine that loses its primary address. Django sets its column to null without a signal."""
    field = f"primary_ip{instance.family}"
    for model in (Device, VirtualMachine):
        for machine in model.objects.filter(**{field: instance}):
            setattr(machine, field, None)
            machine.save()
