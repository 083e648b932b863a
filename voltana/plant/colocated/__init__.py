"""An instance that serves both phases: its scheduler, and its events."""
