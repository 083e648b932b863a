"""Tells the official router which decode server to take, and is otherwise not there."""
