"""The demo data: a small company with four sites, hardware, networks, circuits and virtual machines."""

from core.demo.hardware import load_hardware
from core.demo.lines import load_lines
from core.demo.machines import load_machines
from core.demo.networks import load_networks
from core.demo.organization import load_organization
from core.demo.seeding import Seeder


def load() -> int:
    """Create the missing objects. Returns their number."""
    seeder = Seeder()
    for part in (load_organization, load_networks, load_hardware, load_machines, load_lines):
        part(seeder)
    return seeder.created
