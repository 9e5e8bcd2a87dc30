"""What a setting, an option or a file may hold: ranges and lists, types of JSON, and how anything else is refused."""
