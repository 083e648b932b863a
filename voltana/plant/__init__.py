"""The simulated cluster: hardware and model profiles, power, workload, and the event engine."""
