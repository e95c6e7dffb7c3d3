from tests.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS

INSTALLED_APPS = ["grappelli", *INSTALLED_APPS]
ROOT_URLCONF = "tests.themes.urls"
