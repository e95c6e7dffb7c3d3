"""The base classes of all models, and tags."""

from django.core.validators import RegexValidator
from django.db import models


class ChangeLoggedModel(models.Model):
    created = models.DateTimeField(auto_now_add=True)
    last_updated = models.DateTimeField(auto_now=True)

    class Meta:
        abstract = True


class Tag(ChangeLoggedModel):
    name = models.CharField(max_length=100, unique=True)
    slug = models.SlugField(max_length=100, unique=True)
    color = models.CharField(
        max_length=6,
        default="9e9e9e",
        validators=[RegexValidator("^[0-9a-f]{6}$", "Six hexadecimal digits, such as 2196f3.")],
    )
    description = models.CharField(max_length=200, blank=True)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name


class InventoryModel(ChangeLoggedModel):
    """The base of all inventory: a description, tags and custom fields."""

    description = models.CharField(max_length=200, blank=True)
    custom_field_data = models.JSONField("custom fields", default=dict, blank=True)
    tags = models.ManyToManyField(Tag, blank=True)

    class Meta:
        abstract = True

    def clean(self) -> None:
        super().clean()
        if self.custom_field_data is None:
            self.custom_field_data = {}


class PrimaryModel(InventoryModel):
    """An inventory object with comments."""

    comments = models.TextField(blank=True)

    class Meta:
        abstract = True


class OrganizationalModel(InventoryModel):
    """A group of other objects."""

    name = models.CharField(max_length=100)
    slug = models.SlugField(max_length=100)

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return self.name
