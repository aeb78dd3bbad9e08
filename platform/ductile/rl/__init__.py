"""The mathematics of policy-gradient RL with verifiable rewards: pure functions on tensors and arrays."""
