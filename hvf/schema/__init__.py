"""JSON as it is read: what a file holds as types, and how a file that holds something else is refused."""
