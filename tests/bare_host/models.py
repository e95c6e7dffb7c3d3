from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.db import models


class User(AbstractBaseUser):
    """Has no username, is_staff, is_superuser, groups or has_perms()."""

    email = models.EmailField(unique=True)
    is_operator = models.BooleanField(default=False)

    objects = BaseUserManager()

    USERNAME_FIELD = "email"

    def has_perm(self, perm: str, obj: object = None) -> bool:
        return self.is_operator


class Note(models.Model):
    text = models.CharField(max_length=50)
