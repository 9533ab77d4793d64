"""`pytest -p flexconf.pytest_plugin`: the name of `flexconf.testing.plugin` that test suites use."""

pytest_plugins = ["flexconf.testing.plugin"]
