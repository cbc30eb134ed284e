"""Who a client is, and what it may do: authenticators and access control lists behind `fastmq/contracts.py`."""
