"""Tests in the real NetBox, in an environment where NetBox is installed: ``scripts/test-netbox``."""
