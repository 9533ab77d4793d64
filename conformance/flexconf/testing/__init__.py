"""The pytest plugin, and which test exercised which clause."""
