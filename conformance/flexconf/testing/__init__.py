"""The pytest plugin, and the report of which test exercised which clause."""
