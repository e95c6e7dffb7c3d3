"""The way to a destination: its name asked for once, every address of it judged, and the very same ones dialled.

Under urllib3's connection, so that what was judged is what is connected to, whichever answer a name server gives
next. A kept connection is not judged again: it leads where it was judged to lead, and a request over it costs nothing.
"""

from __future__ import annotations

import copy
from typing import Any

from webhooks.conf import conf
from webhooks.network import proxy, sockets, url_policy
from webhooks.network.ip_policy import address_of, networks
from webhooks.network.outcome import Refused
from webhooks.network.sockets import SocketAddress, TimedSocket
from webhooks.network.url_policy import Destination, Policy

# How long somebody who saves a webhook waits for a name server (seconds).
PATIENCE = 2


def connect(scheme: str, host: str, port: int) -> TimedSocket:
    """A connection to the first address of ``host`` that takes it, through the proxy if there is one.

    Raises Refused where the policy objects, OSError, and what ``deadlines.resolve`` raises.
    """
    addresses = judged(Destination(scheme, host.lower().removesuffix("."), port), host)
    return proxy.connect(conf.proxy, addresses) if conf.proxy else sockets.connect(addresses)


def judged(to: Destination, name: str) -> list[SocketAddress]:
    """The addresses of ``name``. Raises Refused when the policy objects to the destination, or to any of them."""
    policy = _policy()
    if reason := policy.objection(to):
        raise Refused(reason)
    addresses = sockets.resolve(name, to.port)
    for _, (text, *_rest) in addresses:
        address = address_of(text)
        reason = policy.objection_to(address) if address else f"{text} is no address"
        if reason:
            raise Refused(reason if to.address else f"{to.host} resolves to a forbidden address: {reason}")
    return addresses


def objection(url: str) -> str:
    """Why nothing could be sent to this URL, for whoever saves it; or nothing. Takes ``PATIENCE`` seconds at most.

    A name that does not resolve here and now is no objection: workers may ask another name server, and it may be
    given an address later. It is judged again by what is dialled, anyway.
    """
    if reason := url_policy.misspelt(url):
        return reason
    to = url_policy.parse(url)
    try:
        with sockets.deadline(PATIENCE):
            judged(to, to.host)
    except Refused as error:
        return str(error)
    except OSError:
        pass
    return ""


# The setting as it was read last, and what it came to: reading it anew for each connection takes longer than the rest.
_known: tuple[dict[str, Any], Policy] = ({}, Policy())


def _policy() -> Policy:
    """What the setting says now. Raises Refused where it cannot be used."""
    global _known
    said = conf.guards
    if said != _known[0]:
        _known = copy.deepcopy(said), _read()
    return _known[1]


def _read() -> Policy:
    if key := conf.broken_guard:
        raise Refused(f'WEBHOOKS["{key}"] cannot be used, so nothing is sent: see manage.py check')
    return Policy(
        allow_networks=networks(conf.allow_networks),
        deny_networks=networks(conf.deny_networks),
        deny_private=conf.deny_private,
        allow_hosts=tuple(conf.allow_hosts),
        deny_hosts=tuple(conf.deny_hosts),
        allow_ports=tuple(map(_ports, conf.allow_ports)),
        deny_ports=tuple(map(_ports, conf.deny_ports)),
        allow_schemes=tuple(conf.allow_schemes),
    )


def _ports(value: int | str) -> range:
    first, _, last = str(value).partition("-")
    return range(int(first), int(last or first) + 1)
