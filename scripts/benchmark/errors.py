from __future__ import annotations


class NotMeasured(Exception):
    """Why a figure could not be measured, for whoever runs the benchmark."""
