"""The pages in NetBox's own look, one module for each kind: its views, table, filters and forms."""
