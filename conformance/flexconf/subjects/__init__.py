"""What can be put to the test. Each subject turns a case's inputs into (output, LSE)."""
