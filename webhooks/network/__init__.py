"""One HTTP request under guard: only to allowed addresses, within one total deadline, with capped sizes."""
