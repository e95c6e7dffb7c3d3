"""Addresses of all kinds, and an independent implementation of the check."""

from __future__ import annotations

import ipaddress

LOOPBACK, LINK, METADATA, MANY, NONE, RESERVED = (
    "loopback", "link-local", "a cloud metadata address", "multicast", "unspecified", "reserved",
)  # fmt: skip

# By the app's name of their kind; empty for allowed ones.
ADDRESSES = {
    # allowed: public and private ones
    "": [
        "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "126.255.255.255", "128.0.0.0", "169.253.255.255",
        "169.255.0.0", "192.0.1.0", "192.0.3.0", "192.88.98.0", "198.17.255.255", "198.20.0.0", "223.255.255.255",
        "10.0.0.1", "100.64.0.1", "100.127.255.255", "172.16.0.1", "172.31.255.255", "192.168.1.1",
        "2606:4700::1111", "2a00::1", "2001:200::1", "2001:4860:4860::8888", "2003::1", "3ffe::1",
        "fc00::1", "fd00::1", "fdff:ffff::1", "::ffff:8.8.8.8", "::ffff:10.0.0.1", "64:ff9b::8.8.8.8",
        "64:ff9b::10.0.0.1",
    ],
    NONE: ["0.0.0.0", "0.1.2.3", "0.255.255.255", "::", "::ffff:0.0.0.0", "64:ff9b::"],
    LOOPBACK: [
        "127.0.0.1", "127.255.255.254", "127.0.0.0", "::1", "::ffff:127.0.0.1", "::ffff:7f00:1",
        "64:ff9b::127.0.0.1", "64:ff9b::7fff:ffff",
    ],
    LINK: ["169.254.0.1", "169.254.169.253", "fe80::1", "febf::1", "::ffff:169.254.1.1", "64:ff9b::a9fe:101"],
    METADATA: [
        "169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254",
        "fd00:ec2::23", "fd20:ce::254", "fd00:c1::a9fe:a9fe", "fd00:42::42", "fe80::a9fe:a9fe",
        "fd00:a9fe:a9fe::1", "fd00:100::100:200",
        "::ffff:169.254.169.254", "::ffff:a9fe:a9fe", "64:ff9b::169.254.169.254", "64:ff9b::a9fe:a9fe",
        "::ffff:100.100.100.200",
    ],
    MANY: ["224.0.0.1", "239.255.255.255", "ff02::1", "ff00::", "::ffff:224.0.0.1", "64:ff9b::e000:1"],
    RESERVED: [
        "192.0.0.8", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1",
        "240.0.0.1", "255.255.255.255", "2001::1", "2001:10::1", "2001:20::1", "2001:1ff::1", "2001:db8::1",
        "3fff::1", "3fff:fff::1", "2002:7f00:1::", "2002:808:808::", "64:ff9b:1::7f00:1", "64:ff9b:1::808:808",
        "64:ff9b:2::1", "::127.0.0.1", "::8.8.8.8", "::2", "100::1", "5f00::1", "fec0::1", "feff::1", "fe00::1",
        "1000::1", "4000::1", "8000::1", "e000::1", "f000::1", "2001:0:7f00:1::", "::fffe:127.0.0.1",
        "::ffff:0:127.0.0.1", "::ffff:203.0.113.1",
    ],
}  # fmt: skip


_METADATA = {
    "100.100.100.200", "168.63.129.16",
    "fd20:ce::254", "fd00:c1::a9fe:a9fe", "fd00:42::42", "fd00:a9fe:a9fe::1", "fd00:100::100:200",
}  # fmt: skip


def is_forbidden(text: str) -> bool:
    """Whether nothing may be sent to this address by default."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if str(address) in _METADATA:
        return True
    if address.version == 4:
        return _is_forbidden(list(address.packed))
    digits = f"{int(address):032x}"
    if digits.startswith(("0" * 20 + "ffff", "0064ff9b" + "0" * 16)):
        inner = [int(digits[at : at + 2], 16) for at in range(24, 32, 2)]
        return ".".join(map(str, inner)) in _METADATA or _is_forbidden(inner)
    if digits[:2] in ("fc", "fd"):
        return digits.startswith("fd000ec2")
    if digits[0] not in "23":
        return True
    return digits.startswith(("20010db8", "2002", "3fff0", "200100", "200101"))


def _is_forbidden(octets: list[int]) -> bool:
    first, second, third, _ = octets
    match first:
        case 0 | 127:
            return True
        case 169:
            return second == 254
        case 192:
            return (second, third) in ((0, 0), (0, 2), (88, 99))
        case 198:
            return second in (18, 19) or (second, third) == (51, 100)
        case 203:
            return (second, third) == (0, 113)
    return first >= 224
