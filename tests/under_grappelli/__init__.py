"""The example project with the Grappelli admin."""
