"""Settings of all tests: no example is judged by how long it takes, because the machine may be busy."""

from hypothesis import HealthCheck, settings

settings.register_profile("calm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("calm")
