"""What each command is called with: options and help. Everything heavy is imported inside the commands."""
