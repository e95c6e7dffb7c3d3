"""What is written in an address, by a table."""

from __future__ import annotations

import ipaddress

import pytest

from webhooks.network.ip_policy import address_of, ends_at


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("1.2.3.4", ["1.2.3.4"]),
        ("2606:4700::1", ["2606:4700::1"]),
        ("::ffff:1.2.3.4", ["1.2.3.4"]),
        ("64:ff9b::102:304", ["1.2.3.4"]),
        ("64:ff9b:1::102:304", ["64:ff9b:1::102:304", "1.2.3.4"]),
        ("::1.2.3.4", ["::102:304", "1.2.3.4"]),
        ("2002:102:304::9", ["2002:102:304::9", "1.2.3.4"]),
        # the example of RFC 4380, section 4
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", ["2001:0:4136:e378:8000:63bf:3fff:fdd2", "65.54.227.120",
                                                  "192.0.2.45"]),
        ("fd00::5efe:a9fe:a9fe", ["fd00::5efe:a9fe:a9fe", "169.254.169.254"]),
        ("2606:4700::200:5efe:102:304", ["2606:4700::200:5efe:102:304", "1.2.3.4"]),
        ("2606:4700::300:5efe:102:304", ["2606:4700::300:5efe:102:304"]),
        ("::", ["::"]),
        ("::1", ["::1"]),
        ("fe80::1%3", ["fe80::1"]),
    ],
)  # fmt: skip
def test_an_address_inside_an_address_is_found(text: str, ends: list[str]) -> None:
    address = address_of(text)
    assert address
    assert ends_at(address) == tuple(map(ipaddress.ip_address, ends))
