"""A faithful, stateful stand-in of both source APIs and of a webhook receiver."""
