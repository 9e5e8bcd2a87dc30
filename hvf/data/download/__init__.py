"""Downloads: the public sources by name, fetched with resumption and checksums."""
