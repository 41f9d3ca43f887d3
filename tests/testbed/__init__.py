"""What tests talk to that is real."""
