"""Models of every awkward kind that Django allows: keys, inheritance, relations."""

import uuid
from typing import Any

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.contenttypes.fields import GenericForeignKey, GenericRelation
from django.contrib.contenttypes.models import ContentType
from django.db import models
from taggit.managers import TaggableManager

from webhooks import WebhookManager


class Label(models.Model):
    name = models.CharField(max_length=50)

    def __str__(self) -> str:
        return self.name


class ApiToken(models.Model):
    """Called by its secret, as REST framework's."""

    key = models.CharField(max_length=50)

    def __str__(self) -> str:
        return self.key


class Thing(models.Model):
    name = models.CharField(max_length=50)
    status = models.CharField(max_length=20, default="active")
    labels = models.ManyToManyField(Label, related_name="things", blank=True)
    friends = models.ManyToManyField("self", blank=True)
    heroes = models.ManyToManyField("self", symmetrical=False, related_name="fans", blank=True)
    groups = models.ManyToManyField(Label, through="Membership", related_name="members")

    def __str__(self) -> str:
        return self.name


class Membership(models.Model):
    thing = models.ForeignKey(Thing, models.CASCADE)
    label = models.ForeignKey(Label, models.CASCADE)
    role = models.CharField(max_length=20, default="member")


class ThingProxy(Thing):
    class Meta:
        proxy = True


class ThingProxyOfProxy(ThingProxy):
    class Meta:
        proxy = True


class Review(models.Model):
    """Its key points to a proxy."""

    thing = models.ForeignKey(ThingProxy, models.SET_NULL, null=True, related_name="reviews")
    name = models.CharField(max_length=50)


class Peer(models.Model):
    """Both its ends hold the relation, and the model between has more to say."""

    peers = models.ManyToManyField("self", through="Peering")


class Peering(models.Model):
    one = models.ForeignKey(Peer, models.CASCADE, related_name="+")
    other = models.ForeignKey(Peer, models.CASCADE, related_name="+")
    kind = models.CharField(max_length=20)


class Part(models.Model):
    """Goes with its Thing."""

    thing = models.ForeignKey(Thing, models.CASCADE, related_name="parts")
    name = models.CharField(max_length=50)
    spare_of = models.ForeignKey("self", models.SET_NULL, null=True, blank=True, related_name="spares")


class Place(models.Model):
    name = models.CharField(max_length=50)
    labels = models.ManyToManyField(Label, related_name="places", blank=True)


class Restaurant(Place):
    cuisine = models.CharField(max_length=50, default="any")


class Diner(Restaurant):
    is_open = models.BooleanField(default=True)


class DinerProxy(Diner):
    class Meta:
        proxy = True


class Annex(Place):
    """Its link to the parent row has another name and is its key."""

    main = models.OneToOneField(Place, models.CASCADE, parent_link=True, primary_key=True, related_name="annex_of")
    floor = models.IntegerField(default=0)


class Craft(models.Model):
    name = models.CharField(max_length=50)
    labels = models.ManyToManyField(Label, related_name="crafts", blank=True)
    consorts = models.ManyToManyField("self", blank=True)


class Ship(Craft):
    """Has its own primary key in addition to the inherited one."""

    code = models.CharField(max_length=20, primary_key=True)
    ports = models.ManyToManyField(Label, related_name="ships", blank=True)


class Gadget(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    name = models.CharField(max_length=50)
    labels = models.ManyToManyField(Label, related_name="gadgets", blank=True)


class Country(models.Model):
    code = models.CharField(max_length=100, primary_key=True)
    name = models.CharField(max_length=200)

    def __str__(self) -> str:
        return self.name


class Edition(models.Model):
    """Its key may be assigned with fewer places than are stored."""

    number = models.DecimalField(max_digits=8, decimal_places=2, primary_key=True)
    name = models.CharField(max_length=50)


class Tide(models.Model):
    """Its key may be assigned in any time zone."""

    at = models.DateTimeField(primary_key=True)
    name = models.CharField(max_length=50)


class LoudField(models.CharField):
    """Stores another value than the assigned one, and nothing shows it."""

    def get_prep_value(self, value: Any) -> Any:
        return super().get_prep_value(value).upper()


class Shout(models.Model):
    word = LoudField(max_length=50, primary_key=True)
    name = models.CharField(max_length=50)


class Essay(models.Model):
    """Its key may be longer than an Event holds. It is registered by the tests that want it."""

    title = models.CharField(max_length=400, primary_key=True)


class HiddenManager(models.Manager):
    def get_queryset(self) -> models.QuerySet[Any]:
        return super().get_queryset().filter(hidden=False)


class Secretive(models.Model):
    """Its default manager does not see all of its rows."""

    name = models.CharField(max_length=50)
    hidden = models.BooleanField(default=False)
    objects = HiddenManager()


class Shelved(models.Model):
    """Django itself does not see all of its rows either."""

    name = models.CharField(max_length=50)
    hidden = models.BooleanField(default=False)
    labels = models.ManyToManyField(Label, related_name="shelved", blank=True)
    objects = HiddenManager()

    class Meta:
        base_manager_name = "objects"


class Fragile(models.Model):
    """Its serializer follows the instructions in ``behaviour``."""

    name = models.CharField(max_length=50)
    behaviour = models.CharField(max_length=20, default="fine")


class Unregistered(models.Model):
    name = models.CharField(max_length=50)
    labels = models.ManyToManyField(Label, related_name="unregistered", blank=True)


class Tracked(models.Model):
    """Its manager's bulk operations are Events."""

    name = models.CharField(max_length=50)
    status = models.CharField(max_length=20, default="active")

    objects = WebhookManager()

    def __str__(self) -> str:
        return self.name


class TrackedPart(models.Model):
    whole = models.ForeignKey(Tracked, models.CASCADE, related_name="parts")
    name = models.CharField(max_length=50)


class Paired(models.Model):
    """Has a unique constraint over two columns. One of them may be null."""

    left = models.CharField(max_length=20, null=True)
    right = models.IntegerField()
    note = models.CharField(max_length=20, blank=True)

    objects = WebhookManager()

    class Meta:
        constraints = (models.UniqueConstraint(fields=["left", "right"], name="unique_pair"),)


class Counter(models.Model):
    """Its rows are updated in every way that Django knows. The key is of the host, so it may change."""

    code = models.CharField(max_length=20, primary_key=True)
    number = models.IntegerField(null=True)
    group = models.IntegerField(default=0)
    name = models.CharField(max_length=50, default="")
    twin = models.ForeignKey("self", models.SET_NULL, null=True, db_constraint=False, related_name="twins")

    objects = WebhookManager()


class Seat(models.Model):
    """Has a composite key, with a foreign key in it."""

    pk = models.CompositePrimaryKey("thing", "number")
    thing = models.ForeignKey(Thing, models.CASCADE, related_name="seats")
    number = models.IntegerField()
    name = models.CharField(max_length=50, default="")

    objects = WebhookManager()

    def __str__(self) -> str:
        return f"{self.name}"


class Sounding(models.Model):
    """Has a composite key of columns that are assigned as something else than they are read as."""

    pk = models.CompositePrimaryKey("gadget", "at", "depth", "place")
    gadget = models.ForeignKey(Gadget, models.CASCADE)
    at = models.DateTimeField()
    depth = models.DecimalField(max_digits=8, decimal_places=2)
    place = models.CharField(max_length=50)
    name = models.CharField(max_length=50, default="")

    objects = WebhookManager()


class Album(models.Model):
    """The model between has a composite key, and nothing but its key."""

    name = models.CharField(max_length=50)
    labels = models.ManyToManyField(Label, through="AlbumLabel", related_name="albums")


class AlbumLabel(models.Model):
    pk = models.CompositePrimaryKey("album", "label")
    album = models.ForeignKey(Album, models.CASCADE)
    label = models.ForeignKey(Label, models.CASCADE)


class Described(models.Model):
    """The common fields of several models: abstract, without a table."""

    description = models.CharField(max_length=50, blank=True)
    labels = models.ManyToManyField(Label, related_name="%(class)ss", blank=True)

    class Meta:
        abstract = True


class Note(models.Model):
    """Hangs on an object of any model."""

    text = models.CharField(max_length=50)
    # Its table is created before the app's table, because the app has migrations.
    content_type = models.ForeignKey(ContentType, models.CASCADE, db_constraint=False)
    object_id = models.CharField(max_length=100)
    about = GenericForeignKey()


class Specimen(Described):
    """Has a column of every kind that can be assigned as something else than it is read as."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    country = models.ForeignKey(Country, models.CASCADE, null=True)
    gadget = models.ForeignKey(Gadget, models.SET_NULL, null=True)
    weight = models.DecimalField(max_digits=8, decimal_places=2, null=True)
    number = models.IntegerField(default=0)
    found_on = models.DateField(null=True)
    found_at = models.DateTimeField(null=True)
    lasted = models.DurationField(null=True)
    extra = models.JSONField(default=dict)
    notes = GenericRelation(Note)

    def __str__(self) -> str:
        return self.description


class Member(AbstractBaseUser):
    """A user that logs in by e-mail, with another primary key."""

    email = models.EmailField(primary_key=True)
    USERNAME_FIELD = "email"
    objects = BaseUserManager()


class Box(models.Model):
    """Has its tags from a library, as NetBox's models."""

    name = models.CharField(max_length=50)
    tags = TaggableManager(blank=True)


class Person(models.Model):
    name = models.CharField(max_length=50)


class Team(models.Model):
    """Two relations that share the model between."""

    name = models.CharField(max_length=50)
    members = models.ManyToManyField(Person, through="Role", through_fields=("team", "member"), related_name="teams")
    leaders = models.ManyToManyField(Person, through="Role", through_fields=("team", "leader"), related_name="led")


class Course(models.Model):
    """The model between refers to it by something else than its key."""

    code = models.CharField(max_length=20, unique=True)
    students = models.ManyToManyField(Person, through="Enrolment", related_name="courses")


class Enrolment(models.Model):
    course = models.ForeignKey(Course, models.CASCADE, to_field="code")
    person = models.ForeignKey(Person, models.CASCADE)


class Role(models.Model):
    team = models.ForeignKey(Team, models.CASCADE)
    member = models.ForeignKey(Person, models.CASCADE, null=True, related_name="+")
    leader = models.ForeignKey(Person, models.CASCADE, null=True, related_name="+")


class CountingManager(models.Manager["Counted"]):
    def get_queryset(self) -> models.QuerySet["Counted"]:
        return super().get_queryset().annotate(label_count=models.Count("labels"))


class Counted(models.Model):
    """Wherever it is read, its rows are groups."""

    name = models.CharField(max_length=50)
    labels = models.ManyToManyField(Label)
    objects = CountingManager()

    class Meta:
        base_manager_name = "objects"


class ObjectPermission(models.Model):
    """Allows a user to do something to those objects of a model that fit, as in NetBox."""

    # Its table is created before the tables of apps with migrations.
    user = models.ForeignKey("users.User", models.CASCADE, related_name="object_permissions", db_constraint=False)
    permission = models.CharField(max_length=100)
    constraints = models.JSONField(default=dict)


class Shelf(models.Model):
    """Has no serializer, so that it is registered only by tests about hosts that restrict objects: these give it
    ``restrict()``, see ``tests.testapp.object_permissions.restricting``."""

    name = models.CharField(max_length=50)
