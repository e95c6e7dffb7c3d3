"""Settings of the example project with other looks of the admin."""
