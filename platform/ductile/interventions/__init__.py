"""What can be done to a policy's weights between two phases: pure functions on state dicts."""
