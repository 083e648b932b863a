"""The agent of an instance: reads the engine's rings, runs the control loop, drives the clock."""
