"""The way to a receiver: one request, to addresses that were judged, within one deadline in all."""
