"""Receivers of the signals of models. ``DCIMConfig.ready`` imports this module."""

from typing import Any

from django.db.models.signals import post_delete, post_save, pre_delete
from django.dispatch import receiver

from dcim.models import Cable, RackGroup


@receiver(post_save, sender=Cable)
def number_cable(instance: Cable, created: bool, raw: bool, **kwargs: Any) -> None:
    """Label a new cable with its number."""
    if created and not raw and not instance.label:
        instance.label = f"C{instance.pk:05}"
        instance.save()


@receiver(pre_delete, sender=Cable)
def remember_interfaces(instance: Cable, **kwargs: Any) -> None:
    """The deletion sets ``Interface.cable`` to null: afterwards no query finds the interfaces."""
    instance.unplugged = list(instance.interfaces.all())


@receiver(post_delete, sender=Cable)
def unplug_interfaces(instance: Cable, **kwargs: Any) -> None:
    """An interface without a cable has no end of a cable."""
    for interface in instance.unplugged:
        interface.cable = None
        interface.cable_end = ""
        interface.save()


@receiver([post_save, post_delete], sender=RackGroup)
def count_rack_groups(instance: RackGroup, created: bool = True, raw: bool = False, **kwargs: Any) -> None:
    """Keep the number of rack groups at their site."""
    if created and not raw:
        site = instance.site
        site.rackgroup_count = site.rack_groups.count()
        site.save(update_fields=["rackgroup_count"])
