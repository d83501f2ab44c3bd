"""Server and simulator put together: the demo, virtual fleets and the pytest fixtures."""
