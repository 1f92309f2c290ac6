"""Four workers on PostgreSQL, two of them killed, against one."""
