"""An output held against an oracle, and what it comes to."""
