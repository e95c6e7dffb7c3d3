"""Code of a host that cannot be imported, because an environment variable is missing."""

import os

from requests.auth import HTTPDigestAuth

auth = HTTPDigestAuth("jane", os.environ["CMDB_PASSWORD"])
