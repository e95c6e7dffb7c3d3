"""Pictures of the admin pages: a demo with trouble, and a browser that visits each page."""
