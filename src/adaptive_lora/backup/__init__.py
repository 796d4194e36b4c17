"""Backups: the database, the files that it names, router bundles and outcomes, at one moment; and back."""
