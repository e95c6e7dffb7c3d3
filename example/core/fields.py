"""Fields for IP networks and addresses. They are stored as text, which every database supports."""

import ipaddress
from collections.abc import Callable
from typing import Any, ClassVar

from django import forms
from django.core.exceptions import ValidationError
from django.db import models

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
IPInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


def parse_network(text: str) -> IPNetwork:
    """``192.0.2.0/24`` or ``2001:db8::/32``. Raises ValidationError if host bits are set."""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise ValidationError(f"{text} is not an IP network such as 192.0.2.0/24.", code="invalid") from error
    if network.network_address != ipaddress.ip_interface(text).ip:
        raise ValidationError(f"{text} has host bits set. Did you mean {network}?", code="host_bits")
    return network


def parse_interface(text: str) -> IPInterface:
    """An address with its mask, like ``192.0.2.1/24``. The mask defaults to ``/32`` or ``/128``."""
    try:
        return ipaddress.ip_interface(text)
    except ValueError as error:
        raise ValidationError(f"{text} is not an IP address such as 192.0.2.1/24.", code="invalid") from error


class NetworkFormField(forms.CharField):
    def __init__(self, *, parse: Callable[[str], Any] = parse_network, **kwargs: Any) -> None:
        self.parse = parse
        super().__init__(**kwargs)

    def clean(self, value: Any) -> IPNetwork | IPInterface | None:
        text = super().clean(value)
        return self.parse(text) if text else None


class NetworkTextField(models.Field):
    """Text in the database, an object of `ipaddress` in Python. Subclasses define `parse`."""

    parse: ClassVar[Callable[[str], Any]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["max_length"] = 43  # the longest IPv6 address, a slash and three digits
        super().__init__(*args, **kwargs)

    def deconstruct(self) -> tuple[str, str, list[Any], dict[str, Any]]:
        name, path, args, kwargs = super().deconstruct()
        del kwargs["max_length"]
        return name, path, args, kwargs

    def get_internal_type(self) -> str:
        return "CharField"

    def to_python(self, value: Any) -> Any:
        return None if value in (None, "") else type(self).parse(str(value))

    def from_db_value(self, value: str | None, expression: Any, connection: Any) -> Any:
        return self.to_python(value)

    def get_prep_value(self, value: Any) -> str | None:
        parsed = self.to_python(super().get_prep_value(value))
        return None if parsed is None else str(parsed)

    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        value = self.to_python(getattr(model_instance, self.attname))
        setattr(model_instance, self.attname, value)
        return value

    def value_to_string(self, obj: models.Model) -> str:
        return str(self.value_from_object(obj))

    def formfield(self, **kwargs: Any) -> forms.Field | None:
        return super().formfield(**{"form_class": NetworkFormField, "parse": type(self).parse, **kwargs})


class PrefixField(NetworkTextField):
    """An `ipaddress.IPv4Network` or `IPv6Network`."""

    parse = staticmethod(parse_network)


class AddressField(NetworkTextField):
    """An `ipaddress.IPv4Interface` or `IPv6Interface`: an address with the mask of its network."""

    parse = staticmethod(parse_interface)
