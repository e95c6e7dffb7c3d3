from django.db import models

KINDS: list[str] = []  # filled when the app is ready


class Webhook(models.Model):
    name = models.CharField(max_length=50)

    def __str__(self) -> str:
        return self.name


class Draft(models.Model):
    name = models.CharField(max_length=50)

    class Meta:
        managed = False
