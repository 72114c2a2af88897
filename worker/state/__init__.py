"""The state store: many small writes by several processes. Only this package opens its sessions."""

from worker.state import delivery_tables, tables
from worker.state.database import connect, connect_state, transaction

__all__ = ["connect", "connect_state", "delivery_tables", "tables", "transaction"]
