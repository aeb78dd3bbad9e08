"""What can be done to weights between two phases: pure functions on state dicts, chosen by `SwitchSettings`."""
