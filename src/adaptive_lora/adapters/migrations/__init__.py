"""The registry's schema, release by release. Alembic runs them forward whenever a registry is opened.

A migration only adds, so that a gateway of the release before can go on while the others are replaced; and it
is never changed once it is released. The next is written by hand as versions/0002_<what>.py; tests compare
the result with `registry_tables`, and take a database of every release to the present one.
"""
