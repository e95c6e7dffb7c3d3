"""The tables that the test database is made from."""

from django.db.migrations.loader import MigrationLoader

from tests.netbox import tables


def test_the_file_has_all_migrations_of_its_netbox() -> None:
    """Else each run of the tests applies them. Newer releases of NetBox may have more."""
    loader = MigrationLoader(connection=None)
    known = {f"{app}\t{name}" for app, name in loader.disk_migrations if app != "rq_webhooks"}
    lines = tables.text().splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith("COPY public.django_migrations "))
    end = lines.index("\\.", begin)
    applied = {"\t".join(line.split("\t")[1:3]) for line in lines[begin + 1 : end]}
    if tables.contained() == tables.installed():
        assert not known - applied, "renew it: scripts/test-netbox --renew-tables"
