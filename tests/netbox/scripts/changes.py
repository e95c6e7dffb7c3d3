"""Scripts that NetBox runs in jobs."""

from extras.scripts import Script

from dcim.models import Site


class RenameSites(Script):
    def run(self, data, commit):
        for site in Site.objects.filter(name__startswith="Job"):
            site.snapshot()
            site.description = "By a script"
            site.save()


class CreateSite(Script):
    def run(self, data, commit):
        Site.objects.create(name="Scripted", slug="scripted")


class Fails(Script):
    def run(self, data, commit):
        Site.objects.create(name="Never", slug="never")
        raise RuntimeError("This script fails on purpose")
