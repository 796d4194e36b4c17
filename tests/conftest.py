"""For all tests: no example of Hypothesis is judged by its time, since machines are shared."""

from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
