"""HTTP requests under guard: only to allowed addresses, each within one total deadline and with capped sizes."""
