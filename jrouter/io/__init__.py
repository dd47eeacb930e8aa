"""The edge of the world: logs, benchmark tables and checkpoints as files."""
