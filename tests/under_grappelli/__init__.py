"""The example project with Grappelli as the look of its admin."""
