"""The state store: many small writes by several processes. Only this package opens its sessions."""

# Every module with a table is imported here: whichever process makes a store makes all of it.
from worker.state import delivery_tables, heartbeats, requests, tables, tallies, walks
from worker.state.database import connect, connect_state, opened, transaction

__all__ = [
    "connect",
    "connect_state",
    "delivery_tables",
    "heartbeats",
    "opened",
    "requests",
    "tables",
    "tallies",
    "transaction",
    "walks",
]
